"""Stratified subsets of the training images, for evaluations with few labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from benchmark.core.randomness import keyed
from benchmark.core.shares import exact

Subsets = Mapping[float, Tensor]
"""The indices of training images by share."""


def subsets(labels: Tensor, shares: Sequence[float], seed: int) -> Subsets:
    """For each share in 0..1, the ascending indices of that share of every class of `labels` (N,).

    A class of n images has share × n of them, rounded half up, and at least one. The subset of a smaller
    share is in that of a larger one. `seed` is the seed of the data set's splits, so that all cells of a
    data set have the same subsets.
    """
    found = labels.cpu()
    order = torch.randperm(len(found), generator=keyed(seed, "few labels"))
    # Each class in a random order, one class after another.
    members = order[found[order].argsort(stable=True)].split(found.bincount().tolist())

    def subset(share: float) -> Tensor:
        taken = [m[: max(1, int(exact(share) * len(m) + Fraction(1, 2)))] for m in members]
        return torch.cat(taken).sort().values.to(labels.device)

    return {share: subset(share) for share in shares}
