"""Many small tensors on their way to a device as one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes: each tensor starts at a multiple, so that a view of any type is allowed there."""


@dataclass(frozen=True)
class Packed:
    """CPU tensors by name, side by side in one buffer if they are for an accelerator."""

    tensors: Mapping[str, Tensor]
    buffer: Tensor | None
    """(bytes,) uint8, in pinned memory for CUDA; None for a CPU, where nothing is copied."""

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors on the device that they were packed for, by one copy that does not wait."""
        if self.buffer is None:
            return dict(self.tensors)
        there = self.buffer.to(device, non_blocking=True)
        return {
            name: _place(there, start, tensor)
            for (name, tensor), start in zip(
                self.tensors.items(), _starts(self.tensors), strict=False
            )
        }


def pack(tensors: Mapping[str, Tensor], device: torch.device) -> Packed:
    """Packs CPU tensors for a device.

    A copy of a tensor by itself is short, but waits until the device has done all that was asked of it.
    """
    if device.type == "cpu":
        return Packed(tensors, None)
    *starts, size = _starts(tensors)
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for start, tensor in zip(starts, tensors.values(), strict=True):
        _place(buffer, start, tensor).copy_(tensor)
    return Packed(tensors, buffer)


def _starts(tensors: Mapping[str, Tensor]) -> list[int]:
    """The first byte of each tensor in the buffer, then the size of the buffer."""
    starts = [0]
    for tensor in tensors.values():
        starts.append(starts[-1] + math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT)
    return starts


def _place(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)
