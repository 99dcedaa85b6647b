"""Weighted nearest-neighbour classification (Wu et al. 2018, 1805.01978, §3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2000
"""Queries in one matrix product."""

BANK = 2**16
"""Bank embeddings in one matrix product, whose similarities are then at most 500 MiB in float32."""

Split = tuple[Tensor, Tensor]
"""Embeddings (N, D), or images, and class indices (N,)."""


def knn_accuracy(
    bank: Split, queries: Split, neighbours: Sequence[int], temperature: float
) -> list[float]:
    """The top-1 accuracy of `knn_correct` in 0..1, for each number of neighbours."""
    correct = knn_correct(bank, queries, neighbours, temperature)
    return [int(row.sum()) / len(row) for row in correct]


def knn_correct(
    bank: Split, queries: Split, neighbours: Sequence[int], temperature: float
) -> Tensor:
    """Which queries are classified correctly, for each number of neighbours: (K, N) bool.

    The k nearest neighbours by cosine vote for their class with weight exp(cosine / temperature). Of
    equally near ones at the k-th place any may vote. Of classes with equal votes the first wins. Memory
    beside the embeddings does not depend on their number.
    """
    bank_labels = bank[1]
    classes = int(bank_labels.max()) + 1
    parts = []
    for part, truth in zip(*(column.split(CHUNK) for column in queries), strict=True):
        nearest, index = _nearest(bank[0], F.normalize(part, dim=1), max(neighbours))
        weights = (nearest / temperature).exp().double()
        labels = bank_labels[index]
        right = []
        for k in neighbours:
            votes = torch.zeros(len(part), classes, dtype=torch.float64, device=part.device)
            votes.scatter_add_(1, labels[:, :k], weights[:, :k])
            right.append(votes.argmax(1) == truth)
        parts.append(torch.stack(right))
    return torch.cat(parts, 1)


def _nearest(bank: Tensor, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest cosines with each query of length 1, and their indices in the bank: (N, count).

    They are descending, and fewer if the bank is smaller. Only BANK embeddings are normalized at a time.
    """
    nearest = index = torch.empty(0)
    for start in range(0, len(bank), BANK):
        part = F.normalize(bank[start : start + BANK], dim=1)
        near, place = (queries @ part.T).topk(min(count, len(part)), dim=1)
        if start > 0:
            both = torch.cat((nearest, near), 1)
            near, chosen = both.topk(min(count, both.shape[1]), dim=1)
            place = torch.cat((index, place + start), 1).gather(1, chosen)
        nearest, index = near, place
    return nearest, index
