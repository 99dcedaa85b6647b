"""A quick judgement of a network in training: kNN accuracy on a part of the validation split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.evaluation.features import embed, preserve_state, reestimate
from benchmark.evaluation.knn import knn_accuracy

BANK = 1000
"""Training images that vote."""

QUERIES = 500
"""Validation images that are classified."""


def watcher(
    backbone: Backbone,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    neighbours: int,
    temperature: float,
    batch: int,
    standardise: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, int], object] | None = None,
) -> Callable[[], float]:
    """A function that returns the backbone's accuracy now, in 0..1, and NaN if it is not finite.

    `train` and `validation` are uint8 images and labels; evenly spaced ones are taken, the same every
    time. Statistics of a batch are re-estimated on the images that vote, in batches of `batch`: the
    running ones of an early moment are poor, and would look like a slow start of the norms that have
    them; `encode` is what `reestimate` takes. The backbone is left as it was.
    """
    bank, queries = _spaced(train, BANK), _spaced(validation, QUERIES)

    def watch() -> float:
        with preserve_state(backbone):
            reestimate(backbone, bank[0], batch, standardise, encode)
            embedded = [
                embed(backbone, images, standardise)["pooled"] for images in (bank[0], queries[0])
            ]
        if not all(bool(torch.isfinite(z).all()) for z in embedded):
            return float("nan")
        (score,) = knn_accuracy(
            embedded[0], bank[1], embedded[1], queries[1], [neighbours], temperature
        )
        return score

    return watch


def _spaced(split: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """At most `count` images and labels, evenly spaced over the split."""
    total = len(split[0])
    count = min(count, total)
    index = (torch.arange(count) * total // count).to(split[0].device)
    return split[0][index], split[1][index]
