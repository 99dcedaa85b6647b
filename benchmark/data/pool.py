"""The images of a source, and those of a built data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain

import torch
from torch import Tensor

from benchmark.data.manifest import Manifest


@dataclass(frozen=True)
class Pool:
    """Every image of a source, before it is split.

    images: uint8 (N, C, H, W), or several such tensors one after the other, for example on mapped files;
    labels: int64 (N,), indices into `classes`, -1 in the part "unlabelled"; parts: int64 indices into
    the N images, under "train" and "test" (an official split), "train", "validation" and "test" (a
    preset one) or "all", and optionally "unlabelled". ignored: numbers of files that were not read as
    images, by suffix. Raises ValueError where these do not hold.
    """

    images: Tensor | Sequence[Tensor]
    labels: Tensor
    parts: dict[str, Tensor]
    classes: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for images in self.pieces:
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != self.shape:
                raise ValueError(f"images: expected uint8 NCHW, found {_describe(images)}")
        count = sum(map(len, self.pieces))
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            raise ValueError(f"labels: expected int64 ({count},), found {_describe(self.labels)}")
        unlabelled = self.labels == -1
        labels = self.labels[~unlabelled]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ValueError(f"labels: expected 0 to {len(self.classes) - 1}")
        expected = torch.zeros_like(unlabelled)
        expected[self.parts.get("unlabelled", [])] = True
        if not torch.equal(unlabelled, expected):
            raise ValueError("labels: expected -1 in the part 'unlabelled' and nowhere else")
        # An image in two parts would leak from training into the test.
        used = torch.cat(list(self.parts.values())) if self.parts else torch.empty(0)
        if used.dtype != torch.int64 or used.unique().numel() != used.numel():
            raise ValueError("parts: expected int64 indices, each image in one part at most")

    @property
    def pieces(self) -> Sequence[Tensor]:
        """The tensors of `images`, (n, C, H, W) each."""
        return [self.images] if isinstance(self.images, Tensor) else self.images

    @property
    def shape(self) -> torch.Size:
        """Channels, height and width of each image."""
        return self.pieces[0].shape[1:]

    def take(self, indices: Tensor) -> Tensor:
        """The images of ascending indices (n,), uint8 (n, C, H, W)."""
        sizes = [len(piece) for piece in self.pieces]
        local = [
            indices[(indices >= end - size) & (indices < end)] - (end - size)
            for end, size in zip(accumulate(sizes), sizes, strict=True)
        ]
        taken = [piece[inside] for piece, inside in zip(self.pieces, local, strict=True)]
        return torch.cat(taken).contiguous()

    @cached_property
    def originals(self) -> Tensor:
        """The index of the first image with the same pixels as each image, int64 (N,)."""
        first: dict[bytes, int] = {}
        return torch.tensor(
            [
                first.setdefault(hashlib.sha256(image.reshape(-1).numpy().data).digest(), index)
                for index, image in enumerate(chain.from_iterable(self.pieces))
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
