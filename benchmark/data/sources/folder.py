"""A user's own images: one folder for each class, named after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from benchmark.components.options import check_options
from benchmark.core.errors import UserError
from benchmark.data.pool import Pool

COMPONENT: dict[str, Any] = {
    "name": "folder",
    "version": 1,
    "options": {"path": "str", "size": "int >= 1", "channels": [1, 3]},
    # Where the images lie says nothing about them, and would tie the manifest to one machine.
    "unrecorded": ["path"],
}

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif"}
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")

MINIMUM = 3
"""Images of a class needed for one in each of train, validation and test."""


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The images under `path` as a Pool: images (N, channels, size, size), part "all".

    Classes and images are in the order of their names, whatever the file system's. Options: path
    (folder of class folders), size (pixels), channels (1 grey or 3 colour). Raises UserError for a
    wrong option, for fewer than two classes, for a class with too few images, and for an image
    that cannot be read.
    """
    root, size, channels = _checked(options)
    files = _files(root)
    paths = [path for members in files.values() for path in members]
    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    for index, path in enumerate(tqdm(paths, desc=root.name, unit="image", disable=None)):
        images[index] = load_image(path, size, channels)
    counts = torch.tensor([len(members) for members in files.values()])
    return Pool(
        images=images,
        labels=torch.repeat_interleave(torch.arange(len(files)), counts),
        parts={"all": torch.arange(len(paths))},
        classes=tuple(files),
    )


def load_image(path: Path, size: int, channels: int) -> Tensor:
    """One image as uint8 (channels, size, size): upright, its shorter side scaled, its centre cut.

    Of an animation it is the first frame. Raises UserError, with the path, if it is unreadable.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            image = _upright(opened, "L" if channels == 1 else "RGB")
    except Exception as error:
        # Decoders raise errors of many kinds on damaged files, and all mean the same to the user.
        raise UserError(f"{path}: expected an image, found {_one_line(error)}") from error
    short = min(image.size)
    width, height = (max(size, round(side * size / short)) for side in image.size)
    # Pillow widens the filter when it shrinks an image: this is the antialiased bicubic.
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.reshape(size, size, channels).permute(2, 0, 1).contiguous()


def _upright(image: Image.Image, mode: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow's own conversion would clip all but the darkest to white.
        values = np.asarray(image).astype(np.int64) // 257
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return image.convert(mode)


def _checked(options: Mapping[str, Any]) -> tuple[Path, int, int]:
    path, size, channels = check_options("source folder", options, COMPONENT["options"]).values()
    if not path:
        raise UserError("source folder: path is empty, expected the folder with the class folders")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"path: expected a folder, found none at {root}")
    return root, size, channels


def _files(root: Path) -> dict[str, list[Path]]:
    """The image files of each class, both in the order of their names."""
    folders = sorted(
        (child for child in root.iterdir() if child.is_dir() and not _hidden(child, root)),
        key=lambda child: child.name,
    )
    if not folders:
        raise UserError(f"{root}: expected a folder for each class, found none")
    if len(folders) < 2:
        raise UserError(f"{root}: expected at least 2 class folders, found 1 ({folders[0].name})")
    files = {
        folder.name: sorted(
            (
                path
                for path in folder.rglob("*")
                if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path, folder)
            ),
            key=lambda path: path.relative_to(root).as_posix(),
        )
        for folder in folders
    }
    for name, members in files.items():
        if len(members) < MINIMUM:
            raise UserError(
                f"class {name!r}: expected at least {MINIMUM} images, one for each split, "
                f"found {len(members)}"
            )
    return files


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
