"""Imagenette (github.com/fastai/imagenette): 13,394 photographs of ten easy classes of ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchvision.datasets import Imagenette

from benchmark.data.archives import unpacked
from benchmark.data.class_folders import find
from benchmark.data.fetch import RemoteFile
from benchmark.data.folder_pool import pool_of
from benchmark.data.pool import Pool

COMPONENT: dict[str, Any] = {
    "name": "imagenette",
    "version": 1,
    # The options beside the variant are those of `benchmark.data.decode.Decoding`.
    "options": {
        "variant": ["full", "320px", "160px"],
        "size": "int >= 1",
        "channels": [1, 3],
        "crop": ["centre", "random"],
        "ground": ["white", "black"],
        "max_megapixels": "int >= 1",
        "skip_unreadable": "int >= 0",
    },
    "defaults": {
        "crop": "centre",
        "ground": "white",
        "max_megapixels": 180,
        "skip_unreadable": 0,
    },
    "example": {"variant": "160px", "size": 160, "channels": 3},
    "unrecorded": ["max_megapixels", "skip_unreadable"],
}

# The authors' address and checksum of each archive, as torchvision states them.
ARCHIVES = {
    variant: RemoteFile(url.rsplit("/", 1)[1], md5, (url,))
    for variant, (url, md5) in Imagenette._ARCHIVES.items()
}


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: parts "train" (9,469 images) and "test" (3,925, the folder `val`).

    Options: variant, the archive with images of their own size or with shorter sides of 320 or 160
    pixels, and those of `folder`. Classes are named after WordNet, e.g. n01440764 is the tench. Raises
    UserError if the archive cannot be had.
    """
    settings = dict(options)
    archive = ARCHIVES[settings.pop("variant")]
    root = unpacked(archive.path.removesuffix(".tgz"), archive, ("train", "val"), cache)
    return pool_of(find(root, {"train": "train", "test": "val"}), settings)
