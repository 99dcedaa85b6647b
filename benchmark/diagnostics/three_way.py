"""kNN accuracy with batch statistics and running statistics, on training and held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.core.randomness import keyed
from benchmark.data.storage import Labelled
from benchmark.diagnostics.frozen import batch_statistics, population_statistics
from benchmark.evaluation.features import finite, in_parts
from benchmark.evaluation.knn import Split, knn_accuracy
from benchmark.norms.bases import batch_norms
from benchmark.planning.configuration import EvaluationConfig

BANK = 1000
"""Training images in the bank, rounded up to whole batches."""

QUERIES = 500
"""Images classified of either split, rounded up to whole batches: an accuracy's error is about .02."""

KEYS = ("train_batch", "held_out_batch", "held_out_population")

Statistics = Callable[[nn.Module], AbstractContextManager[None]]


@torch.no_grad()
def three_way(
    backbone: Backbone,
    train: Labelled,
    held_out: Labelled,
    batch: int,
    spec: EvaluationConfig,
    standardise: Callable[[Tensor], Tensor],
    seed: int,
) -> dict[str, float | None]:
    """Accuracies in 0..1 of the pooled embedding by statistics and split (2105.07576, §3).

    `train_batch`: batches of `batch` training images, each with its own statistics. `held_out_batch`:
    the same of held-out images; its difference from the first is the generalisation gap.
    `held_out_population`: held-out images with the running statistics; its difference from the second is
    the inconsistency between training and test. The bank has other training images, with the same kind
    of statistics as the queries. All are None if the backbone has no batch statistics or there are too
    few images; one is None if an embedding is not finite.
    """
    available = len(train[0]) // batch
    queries = min(math.ceil(QUERIES / batch), len(held_out[0]) // batch, available // 3)
    bank = min(math.ceil(BANK / batch), available - queries)
    if not batch_norms(backbone) or queries < 1:
        return dict.fromkeys(KEYS)
    voting, seen = _drawn(train, seed, bank * batch, queries * batch)
    (unseen,) = _drawn(held_out, seed, queries * batch)

    def embedded(split: Split, statistics: Statistics) -> Split:
        parts = []
        for part in in_parts(split[0], standardise, batch):
            with statistics(backbone):
                parts.append(backbone.features(part)["pooled"].float())
        return torch.cat(parts), split[1]

    def accuracy(bank: Split, queries: Split) -> float | None:
        if not finite(bank[0], queries[0]):
            return None
        return knn_accuracy(bank, queries, spec.knn_k[:1], spec.knn_temperature)[0]

    by_batch = embedded(voting, batch_statistics)
    by_population = embedded(voting, population_statistics)
    return {
        "train_batch": accuracy(by_batch, embedded(seen, batch_statistics)),
        "held_out_batch": accuracy(by_batch, embedded(unseen, batch_statistics)),
        "held_out_population": accuracy(by_population, embedded(unseen, population_statistics)),
    }


def _drawn(split: Labelled, seed: int, *counts: int) -> list[Split]:
    """Disjoint random parts of a split."""
    order = torch.randperm(len(split[0]), generator=keyed(seed, "diagnostics", "three way"))
    parts = order[: sum(counts)].to(split[0].device).split(list(counts))
    return [(split[0][part], split[1][part]) for part in parts]
