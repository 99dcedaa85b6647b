"""Elementwise replacements of a norm: dynamic tanh and Derf, bounded functions of each value."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.norms.factory import Site

COMPONENT = [
    {
        "name": "dyt",
        "version": 2,
        "options": {"alpha": "float > 0"},
        "example": {"alpha": 0.5},
        "batch_dependent": False,
    },
    {
        "name": "derf",
        "version": 1,
        "options": {"alpha": "float > 0"},
        "example": {"alpha": 0.5},
        "batch_dependent": False,
    },
]


def build(name: str, site: Site, alpha: float) -> nn.Module:
    """DyT or Derf with α starting at `alpha`: .5 in both papers (DyT's §4)."""
    layer = DyT if name == "dyt" else Derf
    return layer(site.width, alpha, -1 if site.shape == "tokens" else 1, site.affine)


class DyT(nn.Module):
    """γ · tanh(α x) + β with a scalar α and a γ and β for each channel.

    Zhu et al. 2025, 2503.10622, equation 1.
    """

    def __init__(self, width: int, alpha: float, axis: int, affine: bool = True) -> None:
        super().__init__()
        self.axis = axis
        self.alpha = nn.Parameter(torch.full((), alpha))
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def bounded(self, x: Tensor) -> Tensor:
        """Any shape → the same shape, between -1 and 1."""
        return torch.tanh(self.alpha * x)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape with the channels on the layer's axis → the same shape."""
        y = self.bounded(x)
        if self.weight is None or self.bias is None:
            return y
        shape = [1] * x.ndim
        shape[self.axis] = -1
        # Under autocast the parameters may have a wider type; the output keeps the input's.
        return (y * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)


class Derf(DyT):
    """γ · erf(α x + s) + β: DyT with the error function, and a scalar s that starts at zero.

    "Stronger Normalization-Free Transformers", 2512.10938.
    """

    def __init__(self, width: int, alpha: float, axis: int, affine: bool = True) -> None:
        super().__init__(width, alpha, axis, affine)
        self.shift = nn.Parameter(torch.zeros(()))

    def bounded(self, x: Tensor) -> Tensor:
        """Any shape → the same shape, between -1 and 1."""
        return torch.erf(self.alpha * x + self.shift)
