"""Weighted nearest-neighbour classification (Wu et al. 2018, 1805.01978, §3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2000
"""Queries in one matrix product."""


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    neighbours: Sequence[int],
    temperature: float,
) -> list[float]:
    """The top-1 accuracy of `knn_correct` in 0..1, for each number of neighbours."""
    correct = knn_correct(bank, bank_labels, queries, query_labels, neighbours, temperature)
    return [int(row.sum()) / len(queries) for row in correct]


def knn_correct(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    neighbours: Sequence[int],
    temperature: float,
) -> Tensor:
    """Which queries are classified correctly, for each number of neighbours: (K, N) bool.

    `bank` (M, D) and `queries` (N, D) are embeddings, labels are class indices. The k nearest neighbours
    by cosine vote for their class with weight exp(cosine / temperature).
    """
    classes = int(bank_labels.max()) + 1
    normalized = F.normalize(bank, dim=1)
    parts = []
    for part, truth in zip(queries.split(CHUNK), query_labels.split(CHUNK), strict=True):
        similarity = F.normalize(part, dim=1) @ normalized.T
        nearest, index = similarity.topk(min(max(neighbours), len(bank)), dim=1)
        weights = (nearest / temperature).exp().double()
        labels = bank_labels[index]
        right = []
        for k in neighbours:
            votes = torch.zeros(len(part), classes, dtype=torch.float64, device=bank.device)
            votes.scatter_add_(1, labels[:, :k], weights[:, :k])
            right.append(votes.argmax(1) == truth)
        parts.append(torch.stack(right))
    return torch.cat(parts, 1)
