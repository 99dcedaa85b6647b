"""Images in files of uint8 arrays, which are memory-mapped, so that a data set may exceed the memory."""

from __future__ import annotations

import io
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

BYTES = 1 << 30
"""Most bytes of a shard. A process maps each shard, and Linux allows it some thousand files."""


READ = 1 << 24
"""Bytes of images that are read at a time."""


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
        self._maps: list[mmap.mmap] = []
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
            self._maps.append(mapped._mmap)
            begins.append(begins[-1] + len(mapped))
        self._begins = torch.tensor(begins)
        self.shape = (begins[-1], *shape)
        self.bytes_each = math.prod(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def forget(self) -> None:
        """Takes the images out of this process's memory. They stay in the system's page cache."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

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


def in_parts(path: Path, size: int = READ) -> Iterator[NDArray[np.uint8]]:
    """The images of a shard, some `size` bytes at a time; OSError or ValueError if it is none."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (count, *shape), _, _ = np.lib.format.read_array_header_1_0(file)
        each = math.prod(shape)
        for begin in range(0, count, step := max(1, size // each)):
            part = file.read(min(step, count - begin) * each)
            yield np.frombuffer(part, np.uint8).reshape(-1, *shape)
