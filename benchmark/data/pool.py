"""The images of a source, before they are divided into splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmark.data import decode
from benchmark.data.manifest import UNLABELLED

if TYPE_CHECKING:
    from benchmark.data.files import Files

NO_LABEL = -1
"""The label of images without one."""

Piece: TypeAlias = "Tensor | Files"


@dataclass(frozen=True)
class Pool:
    """Every image of a source.

    images: uint8 (N, C, H, W), a tensor, which may be on a memory-mapped file, or files to decode, or
    several of these in the order of the images. labels: int64 (N,), indices into `classes`, or
    NO_LABEL. parts: int64 indices into the N images, under "train" and "test" (an official split),
    "train", "validation" and "test" (a preset one) or "all", and the images without labels under
    "unlabelled". ignored: numbers of files that were not read as images, by suffix. digests: see
    `benchmark.data.decode.digests`; computed if all images are tensors. Raises ValueError where these
    do not hold.
    """

    images: Piece | Sequence[Piece]
    labels: Tensor
    parts: dict[str, Tensor]
    classes: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)
    digests: bytes | None = None

    def __post_init__(self) -> None:
        for images in self.pieces:
            if isinstance(images, Tensor) and (images.dtype != torch.uint8 or images.ndim != 4):
                raise ValueError(f"images: expected uint8 NCHW, found {_describe(images)}")
            if tuple(images.shape)[-3:] != self.shape:
                raise ValueError("images: expected images of one shape")
        count = len(self)
        if self.labels.dtype != torch.int64 or self.labels.shape != (count,):
            raise ValueError(f"labels: expected int64 ({count},), found {_describe(self.labels)}")
        labelled = torch.ones(count, dtype=torch.bool)
        labelled[self.parts.get(UNLABELLED, slice(0, 0))] = False
        labels = self.labels[labelled]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ValueError(f"labels: expected 0 to {len(self.classes) - 1}")
        if bool((self.labels[~labelled] != NO_LABEL).any()):
            raise ValueError(f"labels: expected {NO_LABEL} in the part {UNLABELLED!r}")
        # An image in two parts would leak from training into the test.
        used = torch.cat(list(self.parts.values())) if self.parts else torch.empty(0)
        if used.dtype != torch.int64 or used.unique().numel() != used.numel():
            raise ValueError("parts: expected int64 indices, each image in one part at most")

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    @property
    def pieces(self) -> list[Piece]:
        """The tensors and files."""
        return list(self.images) if isinstance(self.images, Sequence) else [self.images]

    @property
    def tensor(self) -> Tensor:
        """All images, of a pool without files; a copy if there are several tensors."""
        tensors = [piece for piece in self.pieces if isinstance(piece, Tensor)]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        channels, height, width = tuple(self.pieces[0].shape)[-3:]
        return channels, height, width

    @cached_property
    def originals(self) -> Tensor:
        """The index of the first image with the same pixels as each image, int64 (N,)."""
        digests = self.digests
        if digests is None:
            digests = decode.digests(self.tensor.numpy())
        # As numbers, which sort much faster than bytes. The sort is stable: the first of each run of
        # equal digests is the first image.
        halves = np.frombuffer(digests, np.uint64).reshape(-1, decode.DIGEST // 8)
        order = np.lexsort(halves.T)
        begins = np.ones(len(order), bool)
        begins[1:] = (halves[order[1:]] != halves[order[:-1]]).any(1)
        originals = np.empty(len(order), np.int64)
        originals[order] = order[begins][np.cumsum(begins) - 1]
        return torch.from_numpy(originals)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
