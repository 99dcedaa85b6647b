"""EvoNorm-S0: a layer in place of a norm and its activation (Liu et al. 2020, 2004.02967)."""

from __future__ import annotations

from timm.layers import EvoNorm2dS0
from torch import Tensor, nn

from benchmark.norms.factory import Site

COMPONENT = {
    "name": "evonorm-s0",
    "version": 1,
    "options": {"groups": "int >= 1"},
    "example": {"groups": 4},
    "batch_dependent": False,
    "activates": True,
}


def build(name: str, site: Site, groups: int) -> nn.Module:
    """timm's layer: x · sigmoid(v x) / group deviation, then scale and shift (table 2).

    Without an activation (at the end of a residual branch) it has scale and shift alone, as in the
    authors' networks.
    """
    if site.width % groups:
        raise ValueError(f"groups {groups} do not divide {site.width} channels")
    if site.shape == "tokens":
        raise ValueError("it replaces a norm and its activation, and no norm of tokens has one")
    if not site.affine:
        raise ValueError("it always has a scale and a shift")
    if site.width == groups and site.positions == 1:
        raise ValueError(f"{groups} groups of one value have no variance")
    layer = EvoNorm2dS0(site.width, groups, apply_act=site.activated, eps=site.eps)
    return layer if site.shape == "map" else OnVectors(layer)


class OnVectors(nn.Module):
    """Applies a layer for maps to vectors (N, C), as maps of one position."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) → (N, C)."""
        return self.layer(x[:, :, None, None])[:, :, 0, 0]
