"""Many small tensors on their way to a device as one."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name", bound=Hashable)

ALIGNMENT = 16
"""Bytes: each tensor starts at a multiple, so that a view of any type is allowed there."""


@dataclass(frozen=True)
class Packed(Generic[Name]):
    """CPU tensors by name, side by side in one buffer if they are for an accelerator."""

    tensors: Mapping[Name, Tensor]
    buffer: Tensor | None
    """(bytes,) uint8, in pinned memory for CUDA; None for a CPU, where nothing is copied."""

    def to(self, device: torch.device) -> dict[Name, Tensor]:
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


def pack(tensors: Mapping[Name, Tensor], device: torch.device) -> Packed[Name]:
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


def send(
    groups: Mapping[str, Mapping[str, Tensor]], device: torch.device
) -> dict[str, dict[str, Tensor]]:
    """Groups of CPU tensors on a device, by one copy that does not wait."""
    flat = {(group, name): tensor for group, own in groups.items() for name, tensor in own.items()}
    sent: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
    for (group, name), tensor in pack(flat, device).to(device).items():
        sent[group][name] = tensor
    return sent


def _starts(tensors: Mapping[Name, Tensor]) -> list[int]:
    """The first byte of each tensor in the buffer, then the size of the buffer."""
    starts = [0]
    for tensor in tensors.values():
        starts.append(starts[-1] + math.ceil(tensor.nbytes / ALIGNMENT) * ALIGNMENT)
    return starts


def _place(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)
