"""The losses, as functions of embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Normalized temperature-scaled cross-entropy (SimCLR, 2002.05709, equation 1).

    `first` and `second` (N, D) are two views of the same images, unnormalized. Each of the 2N
    embeddings must find its partner among the 2N − 1 others. Returns the mean loss and the share
    that found it, detached.
    """
    z = F.normalize(torch.cat((first, second)), dim=1)
    n = len(first)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return F.cross_entropy(logits, partner), _accuracy(logits, partner)


def info_nce(
    query: Tensor, key: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE with a queue of negatives (MoCo, 1911.05722, equation 1).

    `query` and `key` are (N, D) and `negatives` (K, D), all normalized. Returns the mean loss and
    the share of queries nearer to their key than to every negative, detached.
    """
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat((positive, query @ negatives.T), 1) / temperature
    target = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, target), _accuracy(logits, target)


def classification(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of logits (N, K) against class indices (N,), and the accuracy, detached."""
    return F.cross_entropy(logits, target), _accuracy(logits, target)


def masked_reconstruction(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over the hidden patches (MAE, 2111.06377, §3).

    `prediction` and `target` are (N, P, D), `hidden` (N, P) bool.
    """
    error = ((prediction - target) ** 2).mean(2)
    return (error * hidden).sum() / hidden.sum()


def _accuracy(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == target).float().mean()
