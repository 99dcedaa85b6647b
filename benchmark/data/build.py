"""Builds a track's data set once, byte for byte the same everywhere, and reads it back checked."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.components import registry
from benchmark.core.errors import UserError, unknown
from benchmark.data import copies
from benchmark.data.fetch import DEFAULT_CACHE
from benchmark.data.manifest import FORMAT, MANIFEST, dataset_checksum
from benchmark.data.manifest import again as how_again
from benchmark.data.manifest import read as read_manifest
from benchmark.data.pool import Splits
from benchmark.data.split import NAMES, split

TENSORS = "splits.safetensors"


def build(
    track: str,
    source: str,
    options: Mapping[str, Any],
    splits: Mapping[str, int | float],
    seed: int,
    out: Path,
    cache: Path = DEFAULT_CACHE,
) -> dict[str, Any]:
    """Reads a source, splits it and writes `splits.safetensors` and `manifest.json` into `out`.

    The tensors are `<split>.images`, uint8 (N, C, H, W), and `<split>.labels`, int64 (N,).
    `splits` is described at `benchmark.data.split.split`; downloads go to `cache`. Returns the
    manifest. Raises UserError for a wrong option or count, or where the source cannot be read.
    """
    facts = registry.facts("source", source)
    settings = registry.check("source", source, f"source {source}", options)
    pool = registry.load("source", source).read(settings, cache)
    chosen = split(pool, splits, seed)
    tensors: dict[str, Tensor] = {}
    described: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        images, labels = pool.images[chosen[name]], pool.labels[chosen[name]]
        tensors |= {f"{name}.images": images, f"{name}.labels": labels}
        per_class = torch.bincount(labels, minlength=len(pool.classes)).tolist()
        described[name] = {
            "count": len(labels),
            "per_class": dict(zip(pool.classes, per_class, strict=True)),
            "sha256": checksum(images, labels),
        }
    mean, std = _statistics(tensors["train.images"])
    copied = copies.count(pool, chosen)
    manifest = {
        "format": FORMAT,
        "track": track,
        "source": {
            "name": source,
            "version": facts["version"],
            "options": registry.recorded(source, settings),
            # Of a plug-in file: see `benchmark.components.registry.versions`.
            **({"sha256": facts["sha256"]} if "sha256" in facts else {}),
        },
        "shape": list(pool.images.shape[1:]),
        "classes": list(pool.classes),
        "seed": seed,
        "asked": dict(splits),
        "splits": described,
        "mean": mean,
        "std": std,
        "sha256": dataset_checksum(described),
        **({"copies": copied} if copied else {}),
        **({"ignored": dict(pool.ignored)} if pool.ignored else {}),
    }
    _write(out, tensors, manifest)
    return manifest


def load(folder: Path, names: Collection[str]) -> Splits:
    """The manifest of a built data set and those of its splits that are named, each checked.

    Other splits are not read, so that nothing sees the test images before it asks for them.
    Raises UserError, saying how to build the data set anew, if a file is missing or damaged.
    """
    for name in names:
        if name not in NAMES:
            raise unknown("split", name, NAMES)
    manifest = read_manifest(folder)
    again = how_again(manifest["track"])
    path = folder / TENSORS
    images: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    if not path.is_file():
        raise UserError(f"{path}: expected a data set, found no such file; {again}")
    if names:
        try:
            with safe_open(path, framework="pt") as file:
                for name in names:
                    images[name] = file.get_tensor(f"{name}.images")
                    labels[name] = file.get_tensor(f"{name}.labels")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: expected a data set, found {error}; {again}") from error
    for name in images:
        expected, found = manifest["splits"][name]["sha256"], checksum(images[name], labels[name])
        if found != expected:
            raise UserError(
                f"{path}: expected sha256 {expected} of the split {name!r}, found {found}; {again}"
            )
        # Neither checksum covers the rest of the manifest, nor how the bytes are to be read.
        described = _described(manifest, name)
        for key, value in _seen(images[name], labels[name], name, described):
            if described[key] != value:
                raise UserError(
                    f"{folder}: {key} of the split {name!r} is {value} in {TENSORS} and "
                    f"{described[key]} in {MANIFEST}; {again}"
                )
    return Splits(manifest, images, labels)


def _described(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a manifest says of a split that its tensors show too."""
    part, classes = manifest["splits"][name], manifest["classes"]
    return {
        "dtype": [str(torch.uint8), str(torch.int64)],
        "shape": [part["count"], *manifest["shape"]],
        "per_class": {key: part["per_class"].get(key) for key in classes},
        "classes": len(part["per_class"]),
        **({key: manifest[key] for key in ("mean", "std")} if name == "train" else {}),
    }


def _seen(
    images: Tensor, labels: Tensor, name: str, described: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The same of the tensors, one at a time: only of the right types the rest can be asked for."""
    yield "dtype", [str(images.dtype), str(labels.dtype)]
    yield "shape", list(images.shape)
    classes = list(described["per_class"])
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    yield "per_class", dict(zip(classes, counts, strict=False))
    yield "classes", len(counts)
    if name == "train":
        yield from zip(("mean", "std"), _statistics(images), strict=True)


def checksum(images: Tensor, labels: Tensor) -> str:
    """sha256 over the bytes of the images, then of the labels as little-endian 64-bit integers."""
    digest = hashlib.sha256(images.contiguous().reshape(-1).numpy().data)
    digest.update(labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel's pixels in 0..1, rounded to 6 decimals."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        # From a histogram: its counts are exact, so that no order of summing shows in the result.
        weights = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        mean = (weights * values).sum()
        means.append(round(float(mean), 6))
        stds.append(round(float((weights * (values - mean) ** 2).sum().sqrt()), 6))
    return means, stds


def _write(out: Path, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Beside the folder, which is an output of DVC's: what a killed build leaves is no part of it.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-build-") as name:
            folder = Path(name)
            (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
            save_file(tensors, folder / TENSORS)
            # Safetensors writes files for their owner alone; both are to be read alike.
            (folder / TENSORS).chmod((folder / MANIFEST).stat().st_mode)
            # The manifest last: until it is in place, its checksums refuse the new tensors.
            for file in (TENSORS, MANIFEST):
                (folder / file).replace(out / file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: expected a folder to write to, found {error}") from error
