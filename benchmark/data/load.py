"""Reads a built data set with its checks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from benchmark.core import canonical_json
from benchmark.core.errors import UserError, check_known
from benchmark.data import manifest as manifests
from benchmark.data.contents import Contents, contents, in_parts, per_class, statistics
from benchmark.data.manifest import MANIFEST, NAMES, TENSORS, UNLABELLED, Manifest, Storage
from benchmark.data.shards import Shards, file_name
from benchmark.data.storage import Images, Splits, chosen

CHECKED = 1 << 30
"""Most bytes of images whose checksum is compared whenever they are read; see `_unchecked`."""


def load(
    folder: Path,
    names: Collection[str],
    storage: Storage = "auto",
    device: torch.device = torch.device("cpu"),  # noqa: B008  # immutable
) -> Splits:
    """The manifest of a built data set and the named splits, each checked.

    Of other splits nothing is used, so no code sees the test images before it asks for them.
    `unlabelled` may be named if there is no such split. `storage` says where the images are kept and
    `device` where batches of them are wanted, see `benchmark.data.storage`. Raises UserError, with the
    command that builds the data set again, if a file is missing or damaged.
    """
    check_known("split", names, (*NAMES, UNLABELLED))
    manifest = manifests.read(folder)
    names = [name for name in names if name in manifest.splits]
    again = manifests.again(manifest.track)
    index: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    path = folder / TENSORS
    if not path.is_file():
        raise UserError(f"{path}: expected a data set, found no such file; {again}")
    try:
        with safe_open(path, framework="pt") as file:
            for name in names:
                index[name] = file.get_tensor(f"{name}.index")
                labels[name] = file.get_tensor(f"{name}.labels")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: expected a data set, found {error}; {again}") from error
    try:
        shards = Shards(folder, manifest.shards, manifest.shape)
    except ValueError as error:
        raise UserError(f"{error}; {again}") from error

    def compare(name: str, compared: Iterable[tuple[str, Any, Any]]) -> None:
        for key, found, described in compared:
            if found != described:
                raise UserError(
                    f"{folder}: {key} of the split {name!r} is {found} in its files and {described} "
                    f"in {MANIFEST}; {again}"
                )

    for name in names:
        compare(name, _described(index[name], labels[name], len(shards), manifest, name))
    size = sum(map(len, index.values())) * shards.bytes_each
    where = chosen(storage, size, device)
    unchecked = names if size <= CHECKED else _unchecked(folder, manifest, names)
    rows: Tensor | Shards = shards
    if where != "disk":
        rows = torch.empty(
            (sum(map(len, index.values())), *manifest.shape),
            dtype=torch.uint8,
            pin_memory=where == "host" and device.type == "cuda",
        )
    known: dict[str, Contents] = {}
    begin = 0
    for name, places in index.items():
        parts = in_parts(shards, places)
        if isinstance(rows, Tensor):
            own = rows[begin : begin + len(places)]
            parts = _kept(parts, own)
            index[name] = torch.arange(begin, begin := begin + len(places))
        if name in unchecked:
            known[name] = contents(parts, labels[name])
            compare(name, [("sha256", known[name].sha256, manifest.splits[name].sha256)])
        elif isinstance(rows, Tensor):
            deque(parts, maxlen=0)  # reads them
    trained = {"train", UNLABELLED} & set(manifest.splits)
    if trained <= set(known):
        mean, std = statistics(torch.stack([known[name].histogram for name in trained]).sum(0))
        compare("train", [("mean", mean, manifest.mean), ("std", std, manifest.std)])
    if size > CHECKED and known:
        _remember(folder, manifest, known)
    if isinstance(rows, Tensor) and where == "device":
        rows = rows.to(device)
    images = {name: Images(rows, places, device) for name, places in index.items()}
    return Splits(manifest, images, labels)


def check(folder: Path) -> Manifest:
    """Compares the checksums of all images of a built data set; raises UserError as `load` does."""
    _note(folder).unlink(missing_ok=True)
    return load(folder, (*NAMES, UNLABELLED), "disk").manifest


def _described(
    index: Tensor, labels: Tensor, stored: int, manifest: Manifest, name: str
) -> Iterator[tuple[str, Any, Any]]:
    """Properties of a split, each as found and as its manifest says; each needs those before it."""
    part = manifest.splits[name]
    yield "dtype", (index.dtype, labels.dtype), (torch.int64, torch.int64)
    yield "shape", (tuple(index.shape), tuple(labels.shape)), ((part.count,), (part.count,))
    if part.count:
        inside = 0 <= int(index.min()) <= int(index.max()) < stored
        yield "index", "inside" if inside else f"beyond its {stored} images", "inside"
    # No checksum covers this part of the manifest.
    if part.per_class is not None:
        known = 0 <= int(labels.min()) <= int(labels.max()) < len(manifest.classes)
        yield "labels", "classes" if known else "other numbers", "classes"
        yield "per_class", per_class(labels, manifest.classes), part.per_class


def _kept(parts: Iterable[Tensor], rows: Tensor) -> Iterator[Tensor]:
    """The same images, which are also written into `rows` one after another."""
    begin = 0
    for part in parts:
        rows[begin : begin + len(part)] = part
        begin += len(part)
        yield part


def _unchecked(folder: Path, manifest: Manifest, names: Iterable[str]) -> list[str]:
    """The splits whose images have changed, or may have, since their checksum was compared.

    Reading a large data set takes minutes, so its files are taken to be the same while their sizes,
    times and inodes are. `benchmark data TRACK --check` compares all checksums.
    """
    note = canonical_json.read_sealed(_note(folder)) or {}
    same = note.get("files") == _files(folder, manifest) and note.get("dataset") == manifest.sha256
    return [name for name in names if not same or name not in note["splits"]]


def _remember(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Notes beside a data set that the checksums of these splits, too, are right."""
    known = set(manifest.splits) - set(_unchecked(folder, manifest, manifest.splits))
    content = {
        "dataset": manifest.sha256,
        "files": _files(folder, manifest),
        "splits": sorted(known | set(names)),
    }
    # Where nothing can be written, the images are compared each time.
    with contextlib.suppress(OSError):
        canonical_json.write_sealed(_note(folder), content)


def _note(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.checked"


def _files(folder: Path, manifest: Manifest) -> dict[str, list[int]]:
    """Size, time and inode of each file with images."""
    names = [file_name(number) for number in range(manifest.shards)]
    found = {name: (folder / name).stat() for name in names}
    return {name: [s.st_size, s.st_mtime_ns, s.st_ino] for name, s in found.items()}
