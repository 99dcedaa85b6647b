"""The images of a source, and those of a built data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from benchmark.data.manifest import Manifest


@dataclass(frozen=True)
class Pool:
    """Every image of a source, before it is split.

    images: uint8 (N, C, H, W); labels: int64 (N,), indices into `classes`; parts: int64 indices
    into the N images, under "train" and "test" (an official split), "train", "validation" and
    "test" (a preset one) or "all". ignored: numbers of files that were not read as images, by
    suffix. Raises ValueError where these do not hold.
    """

    images: Tensor
    labels: Tensor
    parts: dict[str, Tensor]
    classes: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images: expected uint8 NCHW, found {_describe(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels: expected int64 ({len(self.images)},), found {_describe(self.labels)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(
            self.classes
        ):
            raise ValueError(f"labels: expected 0 to {len(self.classes) - 1}")
        # An image in two parts would leak from training into the test.
        used = torch.cat(list(self.parts.values())) if self.parts else torch.empty(0)
        if used.dtype != torch.int64 or used.unique().numel() != used.numel():
            raise ValueError("parts: expected int64 indices, each image in one part at most")

    @cached_property
    def originals(self) -> Tensor:
        """The index of the first image with the same pixels as each image, int64 (N,)."""
        first: dict[bytes, int] = {}
        return torch.tensor(
            [
                first.setdefault(hashlib.sha256(image.reshape(-1).numpy().data).digest(), index)
                for index, image in enumerate(self.images)
            ],
            dtype=torch.int64,
        )


@dataclass(frozen=True)
class Splits:
    """Splits of a built data set.

    manifest: describes all splits; images: uint8 (N, C, H, W) and labels: int64 (N,) by the split's name
    ("train", "validation", "test").
    """

    manifest: Manifest
    images: dict[str, Tensor]
    labels: dict[str, Tensor]


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
