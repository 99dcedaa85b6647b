"""Batch normalization (Ioffe & Szegedy 2015, 1502.03167), whole-batch and by groups of samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.norms.factory import OverTokens, Site

COMPONENT = [
    {
        "name": "bn",
        "version": 1,
        "options": {},
        "batch_dependent": True,
        "branch": None,
        "normalizes": True,
    },
    {
        "name": "ghost-bn",
        "version": 1,
        "options": {"groups": "int >= 1"},
        "batch_dependent": True,
        "branch": None,
        "normalizes": True,
    },
]


def build(name: str, site: Site, groups: int = 1) -> nn.Module:
    """BN over the batch (and the positions), or over each of `groups` contiguous parts of it."""
    layer: nn.Module
    if name == "ghost-bn":
        layer = GhostBatchNorm(site.width, groups)
    elif site.shape == "map":
        return nn.BatchNorm2d(site.width)
    else:
        layer = nn.BatchNorm1d(site.width)
    return OverTokens(layer) if site.shape == "tokens" else layer


def check_batch(name: str, size: int, groups: int = 1) -> None:
    """Every group gets the same number of samples."""
    if size % groups:
        raise ValueError(f"{groups} groups do not divide a batch of {size}")


class GhostBatchNorm(nn.Module):
    """BN whose statistics come from `groups` contiguous parts of the batch (1705.08741).

    One affine transform serves all groups; the running statistics are the mean over the groups of
    what each would have recorded. In evaluation mode it is plain BN.
    """

    def __init__(
        self, width: int, groups: int, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__()
        self.groups, self.eps, self.momentum = groups, eps, momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def reset_running_stats(self) -> None:
        """Forgets the running statistics."""
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …); N must be a multiple of the number of groups when training."""
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
            )
        if len(x) % self.groups:
            raise UserError(
                f"norm ghost-bn: {self.groups} groups do not divide a batch of {len(x)}"
            )
        self.num_batches_tracked.add_(1)
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        means = [self.running_mean.clone() for _ in range(self.groups)]
        variances = [self.running_var.clone() for _ in range(self.groups)]
        parts = [
            F.batch_norm(part, mean, var, self.weight, self.bias, True, momentum, self.eps)
            for part, mean, var in zip(x.chunk(self.groups), means, variances, strict=True)
        ]
        self.running_mean.copy_(torch.stack(means).mean(0))
        self.running_var.copy_(torch.stack(variances).mean(0))
        return torch.cat(parts)
