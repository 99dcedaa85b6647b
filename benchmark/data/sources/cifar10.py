"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of objects, 32×32, in ten classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.core.errors import UserError
from benchmark.data.archive import read_members
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
"""The folder of the members, both in the archive and where a user unpacked it."""

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
"""The members in the order of the images: the five of the training part, then the test part."""

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
"""Bytes of a record: the label, then the red, green and blue planes, each row by row."""


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: images (60000, 3, 32, 32), parts "train" and "test".

    Takes no options. Raises UserError if a file cannot be had or is damaged.
    """
    batches = [
        parse(content, file.path) for file, content in zip(BATCHES, _contents(cache), strict=True)
    ]
    n = sum(len(labels) for _, labels in batches[:-1])
    return Pool(
        images=torch.cat([images for images, _ in batches]),
        labels=torch.cat([labels for _, labels in batches]),
        parts={"train": torch.arange(n), "test": torch.arange(n, n + len(batches[-1][1]))},
        classes=CLASSES,
    )


def parse(content: bytes, name: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) from the content of one batch.

    Raises UserError, with `name`, if it is not whole records or a label is not 0 to 9.
    """
    if not content or len(content) % RECORD:
        raise UserError(f"{name}: expected records of {RECORD} bytes, found {len(content)} bytes")
    # A bytearray, since a tensor over immutable bytes would be writable all the same.
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, RECORD)
    labels = records[:, 0].long()
    if int(labels.max()) >= len(CLASSES):
        raise UserError(f"{name}: expected labels 0 to 9, found {int(labels.max())}")
    return records[:, 1:].reshape(-1, *SHAPE), labels


def _contents(cache: Path) -> list[bytes]:
    """What the batches contain: from the user's unpacked files, else from the archive."""
    paths = [local(FOLDER, file) for file in BATCHES]
    present = [path for path in paths if path]
    if len(present) == len(BATCHES):
        return [path.read_bytes() for path in present]
    if present and not local(FOLDER, ARCHIVE):
        missing = next(file.path for file, path in zip(BATCHES, paths, strict=True) if not path)
        raise UserError(
            f"{DATA_VARIABLE}: expected all six batches in {present[0].parent}, found no {missing}"
        )
    members = [f"{FOLDER}/{file.path}" for file in BATCHES]
    found = read_members(locate(FOLDER, ARCHIVE, cache), members)
    return [found[member] for member in members]
