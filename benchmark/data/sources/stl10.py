"""STL-10 (Coates et al. 2011): 113,000 colour images of objects, 96×96, 100,000 of them unlabelled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data.archives import unpacked_files
from benchmark.data.fetch import RemoteFile
from benchmark.data.manifest import UNLABELLED
from benchmark.data.pool import NO_LABEL, Pool

COMPONENT = {"name": "stl10", "version": 1, "options": {}}

CLASSES = (
    "airplane",
    "bird",
    "car",
    "cat",
    "deer",
    "dog",
    "horse",
    "monkey",
    "ship",
    "truck",
)

FOLDER = "stl10_binary"
"""The folder of the files, in the archive and after a user unpacked it."""

# The authors' address has no https. The checksum is compared.
ARCHIVE = RemoteFile(
    "stl10_binary.tar.gz",
    "91f7769df0f17e558f3565bffb0c7dfb",
    ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
)

IMAGES = (
    RemoteFile("train_X.bin", "918c2871b30a85fa023e0c44e0bee87f"),
    RemoteFile("test_X.bin", "7f263ba9f9e0b06b93213547f721ac82"),
    RemoteFile("unlabeled_X.bin", "5242ba1fed5e4be9e1e742405eb56ca4"),
)
LABELS = (
    RemoteFile("train_y.bin", "5a34089d4802c674881badbb80307741"),
    RemoteFile("test_y.bin", "36f9794fa4beb8a2c72628de14fa638e"),
)
PARTS = ("train", "test", UNLABELLED)
"""The parts in the order of the images. The unlabelled ones are also of other classes."""


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: images (113000, 3, 96, 96), parts "train", "test", "unlabelled".

    The images stay in their files, 3.1 GB, which are mapped to memory. Those without a label have -1.
    Takes no options. Raises UserError if a file is missing or its checksum is wrong.
    """
    paths = unpacked_files(FOLDER, ARCHIVE, (*IMAGES, *LABELS), cache)
    images = [planes(path) for path in paths[: len(IMAGES)]]
    # The classes are numbered from 1.
    labels = [torch.from_numpy(np.fromfile(path, np.uint8)).long() - 1 for path in paths[3:]]
    unlabelled = torch.full((len(images[-1]),), NO_LABEL)
    parts = torch.arange(sum(map(len, images))).split([len(part) for part in images])
    return Pool(
        images, torch.cat([*labels, unlabelled]), dict(zip(PARTS, parts, strict=True)), CLASSES
    )


def planes(path: Path) -> Tensor:
    """The images of a file, uint8 (N, 3, 96, 96), on its mapped bytes, whose planes are in columns."""
    # Mode c: torch wants memory that it may write to. Nothing is written to the file.
    columns = np.memmap(path, np.uint8, "c").reshape(-1, 3, 96, 96)
    return torch.from_numpy(columns).transpose(2, 3)
