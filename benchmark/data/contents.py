"""What the images of a split are: their checksum, and the mean and deviation of their pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.data.shards import READ, Shards


class Contents(NamedTuple):
    """What the images of a split are."""

    sha256: str
    histogram: Tensor
    """(C, 256), int64: how many pixels of each channel have each value."""


def contents(parts: Iterable[Tensor], labels: Tensor) -> Contents:
    """The checksum of images and labels, see `manifest.Split`, and the histogram of the pixels."""
    digest = hashlib.sha256()
    histogram = torch.zeros(1, 256, dtype=torch.int64)
    for images in parts:
        digest.update(images.reshape(-1).numpy().data)
        counts = [torch.bincount(c.reshape(-1), minlength=256) for c in images.unbind(1)]
        histogram = histogram + torch.stack(counts)
    digest.update(labels.numpy().astype("<i8").tobytes())
    return Contents(digest.hexdigest(), histogram)


def in_parts(shards: Shards, index: Tensor) -> Iterator[Tensor]:
    """The images of an index, some at a time."""
    for part in index.split(max(1, READ // shards.bytes_each)):
        yield shards.take(part)
        shards.forget()


def per_class(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """The number of images of each class."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    return dict(zip(classes, counts, strict=False))


def statistics(histogram: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel's pixels in 0..1, rounded to 6 decimals."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    # The counts are exact, so the order of a sum over images does not change the result.
    for counts in histogram:
        weights = counts.double() / counts.sum()
        mean = (weights * values).sum()
        means.append(round(float(mean), 6))
        stds.append(round(float((weights * (values - mean) ** 2).sum().sqrt()), 6))
    return tuple(means), tuple(stds)
