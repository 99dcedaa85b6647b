"""CIFAR-100 (Krizhevsky 2009): 60,000 colour images of objects, 32×32, in a hundred classes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmark.data.archives import unpacked_files
from benchmark.data.fetch import RemoteFile
from benchmark.data.pool import Pool

COMPONENT: dict[str, Any] = {
    "name": "cifar100",
    "version": 1,
    "options": {"labels": ["fine", "coarse"]},
    "defaults": {"labels": "fine"},
}

FOLDER = "cifar-100-python"
"""The folder of the files, in the archive and after a user unpacked it."""

ARCHIVE = RemoteFile(
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
)

FILES = (
    RemoteFile("train", "16019d7e3df5f24257cddd939b257f8d"),
    RemoteFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    RemoteFile("meta", "7973b15100ade9c7d40fb424638fde48"),
)
"""The images of training and test, and the names of the classes."""


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: images (60000, 3, 32, 32), parts "train" and "test".

    Options: labels, the 100 `fine` classes or the 20 `coarse` ones. Raises UserError if a file is
    missing or its checksum is wrong.
    """
    kind = options["labels"]
    # Pickles can run any code. The checksums of these have been compared.
    *batches, names = (
        pickle.loads(path.read_bytes(), encoding="latin1")
        for path in unpacked_files(FOLDER, ARCHIVE, FILES, cache)
    )
    images = [torch.from_numpy(batch["data"]).reshape(-1, 3, 32, 32) for batch in batches]
    labels = torch.tensor([label for batch in batches for label in batch[f"{kind}_labels"]])
    train, test = torch.arange(len(labels)).split([len(part) for part in images])
    return Pool(
        torch.cat(images),
        labels,
        {"train": train, "test": test},
        tuple(names[f"{kind}_label_names"]),
    )
