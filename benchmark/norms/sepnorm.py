"""Separate normalization of the class token and the other tokens (Chen et al. 2023, 2309.12931)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.norms.factory import Site
from benchmark.norms.layer import LayerNorm

COMPONENT = {
    "name": "sepnorm",
    "version": 1,
    "options": {},
    "batch_dependent": True,
}


def build(name: str, site: Site) -> nn.Module:
    """SepNorm; the paper defines it for tokens that begin with the class token alone."""
    if not site.class_token:
        raise ValueError("it is defined for tokens that begin with a class token")
    return SepNorm(site)


class SepNorm(nn.Module):
    """BN over the class tokens of the batch, LN of each other token, each with its own affine transform.

    Registers are among the other tokens; the paper has none.
    """

    across_ranks = True

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.class_token = nn.BatchNorm1d(site.width, site.eps, site.momentum, site.affine)
        self.others = LayerNorm(site.width, eps=site.eps, elementwise_affine=site.affine)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, 1 + T, C), the class token first → the same shape."""
        first = self.class_token(x[:, 0])
        return torch.cat((first[:, None], self.others(x[:, 1:])), 1)
