"""No normalization, in two forms that answer different questions.

`none-plain` only removes the norm: what did the norm do? `none-skipinit` also multiplies every residual
branch by a learnable scalar that starts at zero: what can good initialisation replace?
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.norms.factory import Site

COMPONENT = [
    {
        "name": "none-plain",
        "version": 1,
        "options": {},
        "batch_dependent": False,
    },
    {
        "name": "none-skipinit",
        "version": 1,
        "options": {},
        "batch_dependent": False,
        "branch": "skipinit",
    },
]


def build(name: str, site: Site) -> nn.Module:
    """The norm's bias if the layer before it has none (convolutions, heads), else the identity."""
    bare = site.shape == "tokens" or site.biased or not site.affine
    return nn.Identity() if bare else Bias(site.width)


class Bias(nn.Module):
    """Adds a learnable bias to each channel, zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        # Under autocast the input may have a narrower type than the bias; the output keeps it.
        return (x + self.bias.view(1, -1, *[1] * (x.ndim - 2))).to(x.dtype)
