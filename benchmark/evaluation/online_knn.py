"""The online kNN: the accuracy of a network in training on a part of the validation split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.data.storage import Labelled
from benchmark.evaluation.features import embed, finite, preserve_state, reestimate
from benchmark.evaluation.knn import Split, knn_accuracy

BANK = 1000
"""Most training images in the bank."""

QUERIES = 500
"""Most validation images that are classified."""

SHARE = 3
"""Fewest training images for each image that the online kNN embeds in the whole training run.

It is then less than a fifth of the work: a training step has forward and backward passes of each view.
"""


class _Stopped(Exception):
    """Raised inside the online kNN if it is told to stop."""


def counts(images_seen: int, batch: int, evaluations: int) -> tuple[int, int]:
    """Bank and query images in each of `evaluations` of a training run.

    BANK and QUERIES, or fewer in the same ratio if the run sees fewer than SHARE images for each. The
    bank has at least a batch, since a norm over the batch may not be defined for less.
    """
    both = max(3 * batch // 2, images_seen // SHARE // evaluations)
    bank = min(BANK, max(batch, both * BANK // (BANK + QUERIES)))
    return bank, max(1, min(QUERIES, both - bank))


def make_online_knn(
    backbone: Backbone,
    train: Labelled,
    validation: Labelled,
    neighbours: int,
    temperature: float,
    batch: int,
    standardise: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, int], object] | None = None,
    images: tuple[int, int] = (BANK, QUERIES),
) -> Callable[[Callable[[], bool]], float | None]:
    """A function that returns the backbone's current accuracy in 0..1, NaN if it is not finite.

    `train` and `validation` are uint8 images and labels, of which it takes at most the numbers in
    `images`, evenly spaced. BN statistics are re-estimated on the bank in batches of `batch` (see
    `reestimate`, which also takes `encode`): early running statistics are poor, and would look like a
    slow start of the norm. The backbone's state is restored. The function calls its argument before each
    forward pass and returns None if the answer is False.
    """
    bank, queries = _spaced(train, images[0]), _spaced(validation, images[1])

    def online_knn(proceed: Callable[[], bool]) -> float | None:
        def prepare(part: Tensor) -> Tensor:
            if not proceed():
                raise _Stopped
            return standardise(part)

        try:
            with preserve_state(backbone):
                reestimate(backbone, bank[0], batch, prepare, encode)
                z = [embed(backbone, part[0], prepare)["pooled"] for part in (bank, queries)]
        except _Stopped:
            return None
        if not finite(*z):
            return float("nan")
        embedded = (z[0], bank[1]), (z[1], queries[1])
        return knn_accuracy(*embedded, [neighbours], temperature)[0]

    return online_knn


def _spaced(split: Labelled, count: int) -> Split:
    """At most `count` images and labels, evenly spaced over the split."""
    total = len(split[0])
    count = min(count, total)
    index = (torch.arange(count) * total // count).to(split[0].device)
    return split[0][index], split[1][index]
