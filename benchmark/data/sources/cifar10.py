"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of objects, 32×32, in ten classes."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.core.errors import UserError
from benchmark.data.fetch import DATA_VARIABLE, RemoteFile, local, locate
from benchmark.data.pool import Pool

COMPONENT = {"name": "cifar10", "version": 1, "options": {}}

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

FOLDER = "cifar-10-batches-bin"
"""The folder of the batches, in the archive and after a user unpacked it."""

ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)

BATCHES = (
    RemoteFile("data_batch_1.bin", "5dd7e06a14cb22eb9f671a540d1b7c25"),
    RemoteFile("data_batch_2.bin", "5ea93a67294ea407fff1d09f752e9692"),
    RemoteFile("data_batch_3.bin", "942cd6a4bcdd0dd3c604fbe906cb4421"),
    RemoteFile("data_batch_4.bin", "ae636b3ba5c66a11e91e8cb52e771fcb"),
    RemoteFile("data_batch_5.bin", "53f37980c15c3d472c316c40844f3f0d"),
    RemoteFile("test_batch.bin", "803d5f7f4d78ea53de84dbe85f74fb6d"),
)
"""The batches in the order of the images: five for training, then one for the test."""

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
"""Bytes of a record: the label, then the red, green and blue planes, each row by row."""


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: images (60000, 3, 32, 32), parts "train" and "test".

    Takes no options. Raises UserError if a file is missing or its checksum is wrong.
    """
    batches = [records(content) for content in _contents(cache)]
    everything = torch.cat(batches)
    first = len(everything) - len(batches[-1])
    return Pool(
        images=everything[:, 1:].reshape(-1, *SHAPE),
        labels=everything[:, 0].long(),
        parts={"train": torch.arange(first), "test": torch.arange(first, len(everything))},
        classes=CLASSES,
    )


def records(content: bytes) -> Tensor:
    """The records of a batch, uint8 (N, 3073): the label, then the pixels."""
    # A bytearray, since torch does not support read-only memory.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, RECORD)


def _contents(cache: Path) -> list[bytes]:
    """The contents of the batches: from the user's unpacked files, else from the archive."""
    paths = [local(FOLDER, file) for file in BATCHES]
    present = [path for path in paths if path]
    if len(present) == len(BATCHES):
        return [path.read_bytes() for path in present]
    if present and not local(FOLDER, ARCHIVE):
        missing = next(file.path for file, path in zip(BATCHES, paths, strict=True) if not path)
        raise UserError(
            f"{DATA_VARIABLE}: expected all six batches in {present[0].parent}, found no {missing}"
        )
    with tarfile.open(locate(FOLDER, ARCHIVE, cache)) as archive:
        members = [archive.extractfile(f"{FOLDER}/{file.path}") for file in BATCHES]
        return [member.read() for member in members if member]
