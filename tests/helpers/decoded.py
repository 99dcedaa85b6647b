"""The images of a source in memory, as a build would decode them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.data.decode import Decoding
from benchmark.data.files import Files
from benchmark.data.pool import Pool


def load_image(path: Path, size: int, channels: int, *more: Any, **options: Any) -> Tensor:
    """One image file as uint8 (channels, size, size)."""
    if more:
        options["ground"] = more[0]
    pixels, _ = Decoding(size, channels, **options)(str(path), path.name)
    return torch.from_numpy(pixels)


def decoded(pool: Pool) -> Pool:
    """The same pool with all files decoded."""
    tensors = []
    for piece in pool.pieces:
        if isinstance(piece, Files):
            found = [piece.decoding(f"{piece.root}/{name}", name)[0] for name in piece.names]
            piece = torch.stack([torch.from_numpy(pixels) for pixels in found])
        tensors.append(piece)
    return replace(pool, images=torch.cat(tensors))
