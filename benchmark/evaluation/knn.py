"""Weighted nearest-neighbour classification (Wu et al. 2018, 1805.01978, §3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2000
"""Queries in one matrix product."""


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

    The k nearest neighbours by cosine vote for their class with weight exp(cosine / temperature).
    """
    bank_labels = bank[1]
    classes = int(bank_labels.max()) + 1
    normalized = F.normalize(bank[0], dim=1)
    parts = []
    for part, truth in zip(*(column.split(CHUNK) for column in queries), strict=True):
        similarity = F.normalize(part, dim=1) @ normalized.T
        nearest, index = similarity.topk(min(max(neighbours), len(normalized)), dim=1)
        weights = (nearest / temperature).exp().double()
        labels = bank_labels[index]
        right = []
        for k in neighbours:
            votes = torch.zeros(len(part), classes, dtype=torch.float64, device=part.device)
            votes.scatter_add_(1, labels[:, :k], weights[:, :k])
            right.append(votes.argmax(1) == truth)
        parts.append(torch.stack(right))
    return torch.cat(parts, 1)
