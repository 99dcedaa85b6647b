"""Builds a track's data set, the same bytes on every machine."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from benchmark.components import registry
from benchmark.core import canonical_json
from benchmark.core.errors import UserError, refused
from benchmark.core.system import locked
from benchmark.data import copies
from benchmark.data.collect import collect
from benchmark.data.contents import contents, in_parts, per_class, statistics
from benchmark.data.fetch import DEFAULT_CACHE
from benchmark.data.manifest import (
    FORMAT,
    MANIFEST,
    TENSORS,
    UNLABELLED,
    Manifest,
    Source,
    Split,
    dataset_checksum,
)
from benchmark.data.shards import Shards
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
    """Reads a source, splits it and writes the data set into the folder `out`.

    `images-00000.npy` and so on are uint8 (n, C, H, W), in the order of the source. `splits.safetensors`
    has `<split>.index`, int64 (N,), the numbers of a split's images among them, and `<split>.labels`,
    int64 (N,). `manifest.json` describes them. `splits` is described at `benchmark.data.split.split`.
    Downloads are stored in `cache`. Raises UserError for a wrong option or count, if the source cannot
    be read, and if the disk is full. `out` is then as it was, and what has been decoded stays beside it
    for the next run.
    """
    facts = registry.facts("source", source)
    settings = registry.check("source", source, f"source {source}", options)
    pool = registry.load("source", source).read(settings, cache)
    origin = Source(
        name=source,
        version=facts["version"],
        options=registry.recorded(source, settings),
        sha256=facts.get("sha256"),
    )
    with _workshop(out) as (notes, folder):
        found = collect(pool.pieces, folder, notes, origin.as_json(), out)
        dropped = torch.tensor(sorted(found.unreadable), dtype=torch.int64)
        parts = {name: part[~torch.isin(part, dropped)] for name, part in pool.parts.items()}
        pool = replace(pool, parts=parts, digests=found.digests)
        chosen = split(pool, splits, seed)
        labels = {name: pool.labels[index] for name, index in chosen.items()}
        shards = Shards(folder, found.shards, pool.shape)
        read = {
            name: contents(in_parts(shards, index), labels[name]) for name, index in chosen.items()
        }
        described = {
            name: Split(
                count=len(index),
                per_class=per_class(labels[name], pool.classes) if name != UNLABELLED else None,
                sha256=read[name].sha256,
            )
            for name, index in chosen.items()
        }
        trained = [read[name].histogram for name in ("train", UNLABELLED) if name in read]
        mean, std = statistics(torch.stack(trained).sum(0))
        manifest = Manifest(
            format=FORMAT,
            track=track,
            source=origin,
            shape=pool.shape,
            classes=pool.classes,
            seed=seed,
            asked={name: count for name, count in splits.items() if count is not None},
            splits=described,
            shards=found.shards,
            mean=mean,
            std=std,
            sha256=dataset_checksum(described),
            copies=copies.count(pool, chosen),
            ignored=dict(pool.ignored) or None,
            unreadable=len(found.unreadable) or None,
            enlarged=found.enlarged or None,
        )
        tensors = {f"{name}.index": index for name, index in chosen.items()}
        tensors |= {f"{name}.labels": found for name, found in labels.items()}
        save_file(tensors, folder / TENSORS)
        content = manifest.model_dump(mode="json", exclude_none=True)
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        canonical_json.write(folder / MANIFEST, text)
        # Safetensors writes files that only their owner can read.
        (folder / TENSORS).chmod((folder / MANIFEST).stat().st_mode)
        _replace(out, folder)
    return manifest


@contextlib.contextmanager
def _workshop(out: Path) -> Iterator[tuple[Path, Path]]:
    """Two folders beside `out`: for notes on its images, which stay, and for the data set in the making.

    Beside it, since `out` is a DVC output, and on the same disk, also if `out` is a link. Raises
    UserError if another process builds the same data set, or if one of the folders cannot be written.
    """
    place = out.resolve()
    notes = place.parent / f".{place.name}-build"
    try:
        if place.exists() and not place.is_dir():
            raise UserError(f"{out}: expected a folder to write to, found a file")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(notes / "lock", wait=False))
            except BlockingIOError:
                raise UserError(
                    f"{out}: another process builds this data set; wait until it has ended"
                ) from None
            yield notes, notes / "set"
    except (OSError, SafetensorError) as error:
        said = refused(error) if isinstance(error, OSError) else str(error)
        raise UserError(f"{out}: the data set cannot be written: {said}") from error


def _replace(out: Path, folder: Path) -> None:
    """Puts a finished data set in the place of an earlier one, which is whole until then."""
    place, old = out.resolve(), folder.with_name("old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    folder.rename(place)
    shutil.rmtree(old, ignore_errors=True)
