"""Batch normalization (Ioffe & Szegedy 2015, 1502.03167), whole-batch and by groups of samples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.core import ranks
from benchmark.core.errors import UserError
from benchmark.norms.across import normalise, record
from benchmark.norms.bases import RunningNorm
from benchmark.norms.factory import EPS, MOMENTUM, ChannelsLast, OverTokens, Site

COMPONENT = [
    {
        "name": "bn",
        "version": 1,
        "options": {},
        "batch_dependent": True,
    },
    {
        "name": "ghost-bn",
        "version": 2,
        "options": {"groups": "int >= 1", "assignment": ["contiguous", "strided"]},
        "example": {"groups": 2, "assignment": "contiguous"},
        "batch_dependent": True,
        "divides_batch": ["groups"],
        "sample_groups": True,
    },
]


def build(name: str, site: Site, groups: int = 1, assignment: str = "contiguous") -> nn.Module:
    """BN over the batch (and the positions), or over each of `groups` equal parts of it."""
    layer: nn.Module
    if name == "ghost-bn":
        if site.merged:
            raise ValueError("its first dimension is not the samples, which it groups")
        layer = GhostBatchNorm(site.width, groups, assignment, site.affine, site.momentum, site.eps)
        # Groups consist of whole samples, so tokens do not count as samples here.
        return ChannelsLast(layer) if site.shape == "tokens" else layer
    if site.shape == "map":
        return nn.BatchNorm2d(site.width, site.eps, site.momentum, site.affine)
    layer = nn.BatchNorm1d(site.width, site.eps, site.momentum, site.affine)
    return OverTokens(layer) if site.shape == "tokens" else layer


class GhostBatchNorm(RunningNorm):
    """BN whose statistics come from `groups` equal parts of the batch (1705.08741).

    `assignment`: sample i of n belongs to group ⌊i · groups / n⌋ (`contiguous`) or i mod groups
    (`strided`, which puts both views of an image into one group where one forward pass takes all
    views). One affine transform serves all groups; the running statistics are the mean over the
    groups of what each would have recorded.
    """

    across_ranks = True

    def __init__(
        self,
        width: int,
        groups: int,
        assignment: str = "contiguous",
        affine: bool = True,
        momentum: float | None = MOMENTUM,
        eps: float = EPS,
    ) -> None:
        super().__init__(width, eps, momentum, affine)
        self.groups, self.assignment = groups, assignment

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …); N must be a multiple of the number of groups when training."""
        if not self.training:
            return self.evaluate(x)
        batch = len(x) * ranks.size()
        if batch % self.groups:
            raise UserError(f"norm ghost-bn: {self.groups} groups do not divide a batch of {batch}")
        values = x.numel() // x.shape[1] * ranks.size() // self.groups
        if values == 1:
            raise UserError(f"norm ghost-bn: {self.groups} groups of one value have no variance")
        if ranks.size() > 1:
            strided = self.assignment == "strided"
            y, mean, variance = normalise(x, self.weight, self.bias, self.eps, self.groups, strided)
            record(self, mean, variance, values)
            return y
        # The groups become channels side by side, so that one call normalizes all of them.
        mean, var = self.running_mean.repeat(self.groups), self.running_var.repeat(self.groups)
        weight, bias = (
            None if p is None else p.repeat(self.groups) for p in (self.weight, self.bias)
        )
        y = F.batch_norm(self._beside(x), mean, var, weight, bias, True, self.counted(), self.eps)
        self.running_mean.copy_(mean.view(self.groups, -1).mean(0))
        self.running_var.copy_(var.view(self.groups, -1).mean(0))
        return self._apart(y)

    def _beside(self, x: Tensor) -> Tensor:
        """(groups · n, C, …) → (n, groups · C, …), channels last, the memory format of maps here."""
        parts = x.movedim(1, -1)
        if self.assignment == "strided":
            parts = parts.unflatten(0, (-1, self.groups)).movedim(1, -2)
        else:
            parts = parts.unflatten(0, (self.groups, -1)).movedim(0, -2)
        return parts.flatten(-2).movedim(-1, 1)

    def _apart(self, y: Tensor) -> Tensor:
        """The inverse of `_beside`."""
        parts = y.movedim(1, -1).unflatten(-1, (self.groups, -1))
        parts = parts.movedim(-2, 1 if self.assignment == "strided" else 0)
        return parts.flatten(0, 1).movedim(-1, 1)
