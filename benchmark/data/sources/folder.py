"""A user's own images: one folder for each class, named after it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from benchmark.core.errors import ParamsError, UserError
from benchmark.data.class_folders import find
from benchmark.data.pool import Pool

COMPONENT: dict[str, Any] = {
    "name": "folder",
    "version": 2,
    "options": {
        "path": "str",
        "size": "int >= 1",
        "channels": [1, 3],
        "ground": ["white", "black"],
        "max_megapixels": "int >= 1",
    },
    "defaults": {"ground": "white", "max_megapixels": 180},
    "example": {"path": "images", "size": 16, "channels": 3},
    # The path does not describe the images, and would tie the manifest to one machine.
    "unrecorded": ["path", "max_megapixels"],
}

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The images under `path` as a Pool: images (N, channels, size, size).

    Its part is "all", or its parts are the split folders, see `benchmark.data.class_folders`. Classes
    and images are sorted by name. Options: path (folder of class folders), size (pixels), channels (1
    grey or 3 colour), ground (colour behind transparent pixels), max_megapixels (the largest image).
    Raises UserError for folders that are not as expected and for an image that cannot be read.
    """
    settings = dict(options)
    root = _folder(settings.pop("path"))
    found = find(root)
    paths = [path for part in found.parts.values() for files in part.values() for path in files]
    size, channels = settings["size"], settings["channels"]
    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    for index, path in enumerate(tqdm(paths, desc=root.name, unit="image", disable=None)):
        images[index] = load_image(path, **settings)
    counts = [[len(files) for files in part.values()] for part in found.parts.values()]
    parts = torch.arange(len(paths)).split([sum(part) for part in counts])
    return Pool(
        images=images,
        labels=torch.cat([torch.arange(len(p)).repeat_interleave(torch.tensor(p)) for p in counts]),
        parts=dict(zip(found.parts, parts, strict=True)),
        classes=tuple(next(iter(found.parts.values()))),
        ignored=found.ignored,
    )


def load_image(
    path: Path,
    size: int,
    channels: int,
    ground: str = COMPONENT["defaults"]["ground"],
    max_megapixels: int = COMPONENT["defaults"]["max_megapixels"],
) -> Tensor:
    """One image as uint8 (channels, size, size): upright, its shorter side scaled, its centre cropped.

    An animation gives its first frame. Transparent pixels show `ground`. Raises UserError, with the
    path, if the image is unreadable or has more pixels than `max_megapixels` allows.
    """
    try:
        with _any_size(), Image.open(path, formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > max_megapixels * 10**6:
                raise UserError(
                    f"{path}: expected at most {max_megapixels} megapixels, found {width} × {height} "
                    "pixels; make the image smaller or raise data.options.max_megapixels"
                )
            image = _upright(opened, "L" if channels == 1 else "RGB", ground)
    except UserError:
        raise
    except Exception as error:
        # Decoders raise many kinds of errors for damaged files.
        raise UserError(
            f"{path}: expected an image, found {type(error).__name__}: {error}"
        ) from error
    short = min(image.size)
    width, height = (max(size, round(side * size / short)) for side in image.size)
    # Pillow widens the filter when it shrinks an image: this is the antialiased bicubic.
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.reshape(size, size, channels).permute(2, 0, 1).contiguous()


@contextmanager
def _any_size() -> Iterator[None]:
    """Lifts Pillow's own limit on the size of an image. `max_megapixels` replaces it."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image, mode: str, ground: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        # 16 bits a pixel, of which Pillow's own conversion would clip most to white.
        values = np.asarray(image).astype(np.int64)
        if not 0 <= values.min() <= values.max() < 2**16:
            raise ValueError(
                f"pixels from {values.min()} to {values.max()}, which 16 bits cannot hold"
            )
        image = Image.fromarray((values // 257).astype(np.uint8))
    elif image.has_transparency_data:
        # The stored colour of a transparent pixel is arbitrary.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    return image.convert(mode)


def _folder(path: str) -> Path:
    """The folder with the class folders."""
    # A path with an unknown user, or too long for the system, leads to no folder either.
    root = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111  # Path.expanduser raises
    if not path or not os.path.isdir(root):  # noqa: PTH112  # Path.is_dir raises
        found = f", found none at {root}" if path else ""
        raise ParamsError(
            f"data.options.path is {path!r}: expected the folder with the class folders{found}"
        )
    return Path(path).expanduser()
