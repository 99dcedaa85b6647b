"""A quick judgement of a network in training: kNN accuracy on a part of the validation split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.evaluation.features import embed, preserve_state, reestimate
from benchmark.evaluation.knn import knn_accuracy

BANK = 1000
"""Training images that vote, at most."""

QUERIES = 500
"""Validation images that are classified, at most."""

SHARE = 3
"""Images seen in training for each image that all judgements together embed, at least. They are then
less than a fifth of the work: training takes a forward and a backward pass of one view or more."""


class _Stopped(Exception):
    """In a judgement that was told to stop."""


def counts(images_seen: int, batch: int, looks: int) -> tuple[int, int]:
    """Images that vote and images that are classified in each of `looks` judgements of a training.

    BANK and QUERIES, or fewer in the same ratio if the training sees fewer than SHARE images for each.
    At least a batch votes, since a norm over the batch may not be defined for less.
    """
    both = max(3 * batch // 2, images_seen // SHARE // looks)
    bank = min(BANK, max(batch, both * BANK // (BANK + QUERIES)))
    return bank, max(1, min(QUERIES, both - bank))


def watcher(
    backbone: Backbone,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    neighbours: int,
    temperature: float,
    batch: int,
    standardise: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, int], object] | None = None,
    images: tuple[int, int] = (BANK, QUERIES),
) -> Callable[[Callable[[], bool]], float | None]:
    """A function that returns the backbone's accuracy now, in 0..1, and NaN if it is not finite.

    `train` and `validation` are uint8 images and labels. At most the number in `images` is taken of
    each, evenly spaced and the same every time. Statistics of a batch are re-estimated on the images
    that vote, in batches of `batch`: the running ones of an early moment are poor, and would look like a
    slow start of the norms that have them; `encode` is what `reestimate` takes. The backbone is left as
    it was. The function asks its argument before each forward pass whether to go on, and returns None
    if not.
    """
    bank, queries = _spaced(train, images[0]), _spaced(validation, images[1])

    def watch(go_on: Callable[[], bool]) -> float | None:
        def prepare(part: Tensor) -> Tensor:
            if not go_on():
                raise _Stopped
            return standardise(part)

        try:
            with preserve_state(backbone):
                reestimate(backbone, bank[0], batch, prepare, encode)
                embedded = [
                    embed(backbone, images, prepare)["pooled"] for images in (bank[0], queries[0])
                ]
        except _Stopped:
            return None
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
