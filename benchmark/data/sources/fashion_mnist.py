"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of clothes, 28×28, in ten classes."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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

# The authors' first address has no https. The checksum is compared wherever the file comes from.
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


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: images (70000, 1, 28, 28), parts "train" and "test".

    Takes no options. Raises UserError if a file is missing or its checksum is wrong.
    """
    values = []
    for name, md5 in CHECKSUMS.items():
        file = RemoteFile(name, md5, tuple(f"{base}/{name}" for base in BASES))
        values.append(idx(locate(FOLDER, file, cache).read_bytes()))
    images, labels = torch.cat(values[::2]), torch.cat(values[1::2])
    first = len(values[0])
    return Pool(
        images=images[:, None],
        labels=labels.long(),
        parts={"train": torch.arange(first), "test": torch.arange(first, len(images))},
        classes=CLASSES,
    )


def idx(content: bytes) -> Tensor:
    """The uint8 values of a gzipped IDX file, whose checksum was compared."""
    raw = bytearray(gzip.decompress(content))
    dims = raw[3]
    shape = struct.unpack_from(f">{dims}I", raw, 4)
    return torch.frombuffer(raw, dtype=torch.uint8, offset=4 + 4 * dims).reshape(shape)
