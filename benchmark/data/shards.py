"""Images in files of uint8 arrays, which are memory-mapped, so that a data set may exceed the memory."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BYTES = 1 << 30
"""Most bytes of a shard. A process maps each shard, and Linux allows it some thousand files."""


def file_name(number: int) -> str:
    """The file of a shard."""
    return f"images-{number:05}.npy"


def header(shape: Sequence[int]) -> bytes:
    """The beginning of a `.npy` file of uint8 in C order (NumPy's format 1.0)."""
    stream = io.BytesIO()
    described: dict[str, Any] = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


class Shards:
    """The images of a built data set, uint8 (N, C, H, W), on disk."""

    def __init__(self, folder: Path, count: int, shape: Sequence[int]) -> None:
        """Maps `count` shards; ValueError for one that is missing, damaged or of another shape."""
        import torch

        self._parts: list[Tensor] = []
        begins = [0]
        for number in range(count):
            path = folder / file_name(number)
            # Copy on write: torch has no read-only tensors. Nothing writes to them.
            try:
                mapped = np.load(path, mmap_mode="c")
            except FileNotFoundError as error:
                raise ValueError(f"{path}: expected images, found no such file") from error
            except (OSError, ValueError, EOFError) as error:
                raise ValueError(f"{path}: expected images, found {error}") from error
            if mapped.dtype != np.uint8 or mapped.shape[1:] != tuple(shape):
                raise ValueError(
                    f"{path}: expected uint8 images of {tuple(shape)}, found {mapped.dtype} "
                    f"{mapped.shape}"
                )
            self._parts.append(torch.from_numpy(mapped))
            begins.append(begins[-1] + len(mapped))
        self._begins = torch.tensor(begins)
        self.shape = (begins[-1], *shape)
        self.bytes_each = math.prod(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, index: Tensor, pinned: bool = False) -> Tensor:
        """The images of an index (B,) into all of them, in memory: uint8 (B, C, H, W)."""
        import torch

        out = torch.empty((len(index), *self.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        shard = torch.bucketize(index, self._begins, right=True) - 1
        for number in shard.unique().tolist():
            places = torch.nonzero(shard == number).flatten()
            inside = index[places] - self._begins[number]
            if len(places) == len(index):
                return torch.index_select(self._parts[number], 0, inside, out=out)
            out[places] = self._parts[number][inside]
        return out
