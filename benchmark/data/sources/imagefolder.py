"""ImageNet's layout, as of torchvision's ImageFolder: class folders in `train` and in `val`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.data.class_folders import find
from benchmark.data.folder_pool import pool_of
from benchmark.data.pool import Pool
from benchmark.data.sources.folder import folder

COMPONENT: dict[str, Any] = {
    "name": "imagefolder",
    "version": 1,
    # The options beside the path are `benchmark.data.decode.OPTIONS`.
    "options": {
        "path": "str",
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
    "example": {"path": "images", "size": 16, "channels": 3},
    "unrecorded": ["path", "max_megapixels", "skip_unreadable"],
}


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The images of class folders as a Pool: parts "train" (`train`) and "test" (`val`).

    The official validation images are the test split, as in published tables; the validation split is
    taken from `train`. Options: path, and those of `folder`. Raises UserError as `folder` does.
    """
    settings = dict(options)
    root = folder("path", settings.pop("path"), "folders train and val")
    return pool_of(find(root, {"train": "train", "test": "val"}), settings)
