"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of clothes, 28×28, in ten classes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.core.errors import UserError
from benchmark.data.fetch import RemoteFile, locate
from benchmark.data.pool import Pool

COMPONENT = {"name": "fashion-mnist", "version": 1, "options": {}}

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

FOLDER = "fashion-mnist"

# The authors' first address has no https; the checksum is compared wherever the file comes from.
BASES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
)

CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}

UNSIGNED_BYTE = 8


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: images (70000, 1, 28, 28), parts "train" and "test".

    Takes no options. Raises UserError if a file cannot be had or is damaged.
    """
    content = {}
    for name, md5 in CHECKSUMS.items():
        file = RemoteFile(name, md5, tuple(f"{base}/{name}" for base in BASES))
        content[name] = gunzip(locate(FOLDER, file, cache).read_bytes(), name)
    parts = {
        part: parse(
            content[f"{stem}-images-idx3-ubyte.gz"], content[f"{stem}-labels-idx1-ubyte.gz"]
        )
        for part, stem in (("train", "train"), ("test", "t10k"))
    }
    n = len(parts["train"][1])
    return Pool(
        images=torch.cat([images for images, _ in parts.values()]),
        labels=torch.cat([labels for _, labels in parts.values()]),
        parts={"train": torch.arange(n), "test": torch.arange(n, n + len(parts["test"][1]))},
        classes=CLASSES,
    )


def gunzip(content: bytes, name: str) -> bytes:
    """The unpacked content of a gzip file; `name` is for the UserError if it is not one."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name}: expected a gzip file, found {error}") from error


def parse(images: bytes, labels: bytes) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 1, H, W) and labels int64 (N,) from the content of two IDX files.

    Raises UserError if a header is wrong, the lengths differ, or a label is not 0 to 9.
    """
    pixels = parse_idx(images, dims=3, name="images")
    classes = parse_idx(labels, dims=1, name="labels")
    if len(pixels) != len(classes):
        raise UserError(f"labels: expected {len(pixels)}, one per image, found {len(classes)}")
    if len(classes) and int(classes.max()) >= len(CLASSES):
        raise UserError(f"labels: expected 0 to {len(CLASSES) - 1}, found {int(classes.max())}")
    return pixels[:, None], classes.long()


def parse_idx(content: bytes, dims: int, name: str) -> Tensor:
    """The uint8 tensor, with `dims` dimensions, in the content of an IDX file.

    Raises UserError if the header says anything else, or the length is not what it says.
    """
    header = 4 + 4 * dims
    magic = bytes((0, 0, UNSIGNED_BYTE, dims))
    if len(content) < header or content[:4] != magic:
        raise UserError(
            f"{name}: expected an IDX file starting with {magic.hex()} and {dims} sizes, "
            f"found {len(content)} bytes starting with {content[:4].hex()}"
        )
    shape = struct.unpack_from(f">{dims}I", content, 4)
    size = math.prod(shape)
    expected = header + size
    if len(content) != expected:
        raise UserError(f"{name}: expected {expected} bytes for {shape}, found {len(content)}")
    if size == 0:
        raise UserError(f"{name}: expected at least one value, found the shape {shape}")
    # A bytearray, since a tensor over immutable bytes would be writable all the same.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)
