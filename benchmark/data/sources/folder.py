"""A user's own images: one folder for each class, named after it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.core.errors import ParamsError
from benchmark.data.class_folders import existing, find, find_unlabelled
from benchmark.data.folder_pool import pool_of
from benchmark.data.pool import Pool

COMPONENT: dict[str, Any] = {
    "name": "folder",
    "version": 2,
    # The options beside the paths are `benchmark.data.decode.OPTIONS`.
    "options": {
        "path": "str",
        "train": "str",
        "evaluate": "str",
        "size": "int >= 1",
        "channels": [1, 3],
        "crop": ["centre", "random"],
        "ground": ["white", "black"],
        "max_megapixels": "int >= 1",
        "skip_unreadable": "int >= 0",
    },
    "defaults": {
        "path": "",
        "train": "",
        "evaluate": "",
        "crop": "centre",
        "ground": "white",
        "max_megapixels": 180,
        "skip_unreadable": 0,
    },
    "example": {"path": "images", "size": 16, "channels": 3},
    # A path does not describe the images, and would tie the manifest to one machine. The limits change
    # no image.
    "unrecorded": ["path", "train", "evaluate", "max_megapixels", "skip_unreadable"],
}


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The images under `path` as a Pool: images (N, channels, size, size).

    Its part is "all", or its parts are the split folders, see `benchmark.data.class_folders`. Instead of
    `path`, `evaluate` may be such a folder, and `train` one of images without labels. The other options
    are those of `benchmark.data.decode.Decoding`, and skip_unreadable: how many files may be unreadable.
    Raises UserError for folders that are not as expected.
    """
    settings = dict(options)
    places = {key: settings.pop(key) for key in ("path", "train", "evaluate")}
    given = [key for key, place in places.items() if place]
    if given not in (["path"], ["train", "evaluate"]):
        if not given:
            given = ["path"]  # asked for below, in words that help
        else:
            raise ParamsError(
                "data.options: expected a path, or both train (images without labels) and evaluate "
                f"(class folders), found {' and '.join(given)}"
            )
    if given == ["path"]:
        return pool_of(find(folder("path", places["path"])), settings)
    root = folder("train", places["train"], "images")
    names, ignored = find_unlabelled(root)
    found = find(folder("evaluate", places["evaluate"]))
    together = dict(sorted((Counter(found.ignored) + Counter(ignored)).items()))
    return pool_of(replace(found, ignored=together), settings, (root, names))


def folder(option: str, path: str, of: str = "class folders") -> Path:
    """The folder that an option leads to; ParamsError if it is none."""
    root = existing(path)
    if root is None:
        place = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111  # Path.expanduser raises
        found = f", found none at {place}" if path else ""
        raise ParamsError(
            f"data.options.{option} is {path!r}: expected the folder with the {of}{found}"
        )
    return root
