"""Dynamic tanh (Zhu et al. 2025, 2503.10622): an elementwise replacement of a norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.norms.factory import Site

COMPONENT = {
    "name": "dyt",
    "version": 2,
    "options": {"alpha": "float > 0"},
    "example": {"alpha": 0.5},
    "batch_dependent": False,
}


def build(name: str, site: Site, alpha: float) -> nn.Module:
    """DyT with α starting at `alpha` (.5 in the paper, §4)."""
    return DyT(site.width, alpha, -1 if site.shape == "tokens" else 1, site.affine)


class DyT(nn.Module):
    """γ · tanh(α x) + β with a scalar α and a γ and β for each channel (equation 1)."""

    def __init__(self, width: int, alpha: float, axis: int, affine: bool = True) -> None:
        super().__init__()
        self.axis = axis
        self.alpha = nn.Parameter(torch.full((), alpha))
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Any shape with the channels on the layer's axis → the same shape."""
        y = torch.tanh(self.alpha * x)
        if self.weight is None or self.bias is None:
            return y
        shape = [1] * x.ndim
        shape[self.axis] = -1
        # Under autocast the parameters may have a wider type; the output keeps the input's.
        return (y * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)
