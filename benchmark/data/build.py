"""Builds a track's data set, the same bytes on every machine, and reads it with its checks."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmark.components import registry
from benchmark.core.errors import UserError, check_known
from benchmark.data import copies
from benchmark.data.fetch import DEFAULT_CACHE
from benchmark.data.manifest import (
    FORMAT,
    MANIFEST,
    NAMES,
    TENSORS,
    Manifest,
    Source,
    Split,
    dataset_checksum,
)
from benchmark.data.manifest import again as how_again
from benchmark.data.manifest import read as read_manifest
from benchmark.data.pool import Splits
from benchmark.data.split import split


def build(
    track: str,
    source: str,
    options: Mapping[str, Any],
    splits: Mapping[str, int | float],
    seed: int,
    out: Path,
    cache: Path = DEFAULT_CACHE,
) -> Manifest:
    """Reads a source, splits it and writes `splits.safetensors` and `manifest.json` into `out`.

    The tensors are `<split>.images`, uint8 (N, C, H, W), and `<split>.labels`, int64 (N,). `splits` is
    described at `benchmark.data.split.split`. Downloads are stored in `cache`. Raises UserError for a
    wrong option or count, and if the source cannot be read.
    """
    facts = registry.facts("source", source)
    settings = registry.check("source", source, f"source {source}", options)
    pool = registry.load("source", source).read(settings, cache)
    chosen = split(pool, splits, seed)
    tensors: dict[str, Tensor] = {}
    described: dict[str, Split] = {}
    for name in NAMES:
        images, labels = pool.take(chosen[name]), pool.labels[chosen[name]]
        tensors |= {f"{name}.images": images, f"{name}.labels": labels}
        described[name] = Split(
            count=len(labels),
            per_class=_per_class(labels, pool.classes),
            sha256=checksum(images, labels),
        )
    mean, std = _statistics(tensors["train.images"])
    manifest = Manifest(
        format=FORMAT,
        track=track,
        source=Source(
            name=source,
            version=facts["version"],
            options=registry.recorded(source, settings),
            sha256=facts.get("sha256"),
        ),
        shape=tuple(pool.shape),
        classes=pool.classes,
        seed=seed,
        asked=dict(splits),
        splits=described,
        mean=mean,
        std=std,
        sha256=dataset_checksum(described),
        copies=copies.count(pool, chosen),
        ignored=dict(pool.ignored) or None,
    )
    _write(out, tensors, manifest)
    return manifest


def load(folder: Path, names: Collection[str]) -> Splits:
    """The manifest of a built data set and the named splits, each checked.

    Other splits are not read, so no code sees the test images before it asks for them. Raises UserError,
    with the command that builds the data set again, if a file is missing or damaged.
    """
    check_known("split", names, NAMES)
    manifest = read_manifest(folder)
    again = how_again(manifest.track)
    path = folder / TENSORS
    images: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    if not path.is_file():
        raise UserError(f"{path}: expected a data set, found no such file; {again}")
    try:
        with safe_open(path, framework="pt") as file:
            for name in names:
                images[name] = file.get_tensor(f"{name}.images")
                labels[name] = file.get_tensor(f"{name}.labels")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: expected a data set, found {error}; {again}") from error
    for name in images:
        for key, found, described in _compared(images[name], labels[name], manifest, name):
            if found != described:
                raise UserError(
                    f"{folder}: {key} of the split {name!r} is {found} in {TENSORS} and "
                    f"{described} in {MANIFEST}; {again}"
                )
    return Splits(manifest, images, labels)


def _compared(
    images: Tensor, labels: Tensor, manifest: Manifest, name: str
) -> Iterator[tuple[str, Any, Any]]:
    """Properties of a split, each with its value in the tensors and in the manifest.

    Each can be computed only if those before it agree.
    """
    part = manifest.splits[name]
    yield "dtype", (images.dtype, labels.dtype), (torch.uint8, torch.int64)
    yield "shape", tuple(images.shape), (part.count, *manifest.shape)
    yield "sha256", checksum(images, labels), part.sha256
    # No checksum covers the rest of the manifest.
    yield "per_class", _per_class(labels, manifest.classes), part.per_class
    if name == "train":
        mean, std = _statistics(images)
        yield "mean", mean, manifest.mean
        yield "std", std, manifest.std


def _per_class(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    return dict(zip(classes, counts, strict=False))


def checksum(images: Tensor, labels: Tensor) -> str:
    """sha256 over the bytes of the images, then of the labels as little-endian 64-bit integers."""
    digest = hashlib.sha256(images.contiguous().reshape(-1).numpy().data)
    digest.update(labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel's pixels in 0..1, rounded to 6 decimals."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        # From a histogram: its counts are exact, so the order of the sum does not change the result.
        weights = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        mean = (weights * values).sum()
        means.append(round(float(mean), 6))
        stds.append(round(float((weights * (values - mean) ** 2).sum().sqrt()), 6))
    return tuple(means), tuple(stds)


def _write(out: Path, tensors: dict[str, Tensor], manifest: Manifest) -> None:
    content = manifest.model_dump(mode="json", exclude_none=True)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Beside the folder, which is a DVC output: files that a killed build leaves are not in it.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-build-") as name:
            folder = Path(name)
            (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
            save_file(tensors, folder / TENSORS)
            # Safetensors writes files that only their owner can read.
            (folder / TENSORS).chmod((folder / MANIFEST).stat().st_mode)
            # The manifest last: the old one has other checksums, so the new tensors are not used before.
            for file in (TENSORS, MANIFEST):
                (folder / file).replace(out / file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out}: expected a folder to write to, found {error}") from error
