"""Decodes one image file to pixels of a fixed size. Needs no torch: worker processes import it alone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from benchmark.core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIGEST = 16
"""Bytes that tell an image from all others."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")


@dataclass(frozen=True)
class Decoding:
    """How image files become uint8 arrays (channels, size, size)."""

    size: int
    """Pixels."""
    channels: int
    """1: grey, 3: colour."""
    crop: str = "centre"
    """What is kept of the longer side: its centre, or a part at a place that the file's name decides."""
    ground: str = "white"
    """The colour behind transparent pixels."""
    max_megapixels: int = 180
    """The largest image, in millions of pixels."""

    def __call__(self, path: str, name: str) -> tuple[NDArray[np.uint8], bool]:
        """The pixels of a file, and whether it was enlarged.

        Upright, the shorter side resized to `size` (bicubic, antialiased), the longer one cropped. An
        animation gives its first frame. `name` decides the place of a random crop. Raises UserError,
        with the path, if the image is unreadable or too large.
        """
        try:
            with _any_size(), Image.open(path, formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > self.max_megapixels * 10**6:
                    raise UserError(
                        f"{path}: expected at most {self.max_megapixels} megapixels, found {width} × "
                        f"{height} pixels; make the image smaller or raise data.options.max_megapixels"
                    )
                image = _upright(opened, "L" if self.channels == 1 else "RGB", self.ground)
        except UserError:
            raise
        except Exception as error:
            # Decoders raise many kinds of errors for damaged files.
            raise UserError(
                f"{path}: expected an image, found {type(error).__name__}: {error}"
            ) from error
        size, short = self.size, min(image.size)
        width, height = (max(size, round(side * size / short)) for side in image.size)
        if width * height > self.max_megapixels * 10**6:
            # A strip of few pixels, whose length grows with its breadth.
            raise UserError(
                f"{path}: expected at most {self.max_megapixels} megapixels once the shorter side is "
                f"{size}, found {width} × {height} pixels; make it less oblong or raise "
                "data.options.max_megapixels"
            )
        # Pillow widens the filter when it shrinks an image: this is the antialiased bicubic.
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (self._start(side - size, name) for side in (width, height))
        pixels = np.array(image.crop((left, top, left + size, top + size)), dtype=np.uint8)
        planes = pixels.reshape(size, size, self.channels).transpose(2, 0, 1)
        return np.ascontiguousarray(planes), short < size

    def _start(self, spare: int, name: str) -> int:
        """The first pixel of the crop along a side with `spare` pixels too many."""
        if self.crop == "centre":
            return spare // 2
        raw = name.encode("utf-8", "surrogateescape")  # the name of a file need not be UTF-8
        return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big") % (spare + 1)


class Stored(NamedTuple):
    """What is known of images that were written to a file."""

    digests: bytes
    """DIGEST bytes of each image."""
    unreadable: dict[int, str]
    """Why an image could not be read, by its place among them. It is black."""
    enlarged: int
    """How many were smaller than the size asked for."""

    def then(self, other: Stored, begin: int) -> Stored:
        """With other images after these, of which the first has the number `begin`."""
        return Stored(
            self.digests + other.digests,
            self.unreadable | {begin + place: said for place, said in other.unreadable.items()},
            self.enlarged + other.enlarged,
        )


NOTHING = Stored(b"", {}, 0)


def store(out: str, offset: int, root: str, names: Sequence[str], decoding: Decoding) -> Stored:
    """Decodes files and writes their pixels into the file `out` at `offset`, one after another."""
    images = np.zeros((len(names), decoding.channels, decoding.size, decoding.size), np.uint8)
    unreadable, enlarged = {}, 0
    with warnings.catch_warnings():
        # Pillow warns of unusual files that it can read, once for each of thousands.
        warnings.simplefilter("ignore")
        for place, name in enumerate(names):
            try:
                images[place], small = decoding(f"{root}/{name}", name)
                enlarged += small
            except UserError as error:
                unreadable[place] = str(error)
    return Stored(write(out, offset, images), unreadable, enlarged)


def write(out: str, offset: int, images: NDArray[np.uint8]) -> bytes:
    """Writes images (N, C, H, W) into the file `out` at `offset` and returns their digests."""
    try:
        with Path(out).open("r+b") as file:
            file.seek(offset)
            file.write(np.ascontiguousarray(images).data)
    except OSError as error:
        # The error of a full disk does not name the file.
        raise OSError(error.errno, error.strerror, out) from error
    return digests(images)


def digests(images: NDArray[np.uint8]) -> bytes:
    """The first DIGEST bytes of the sha256 of each image's pixels."""
    whole = (np.ascontiguousarray(image).data for image in images)
    return b"".join(hashlib.sha256(image).digest()[:DIGEST] for image in whole)


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
