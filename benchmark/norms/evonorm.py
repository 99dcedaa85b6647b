"""EvoNorm-S0: a norm and an activation found together (Liu et al. 2020, 2004.02967)."""

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

    Where no activation follows (the end of a residual branch) scale and shift alone are left, as
    in the authors' networks.
    """
    if site.width % groups:
        raise ValueError(f"groups {groups} do not divide {site.width} channels")
    if site.shape == "tokens":
        raise ValueError("it stands for a norm with its activation, and no norm here has one")
    if not site.affine:
        raise ValueError("it has no form without scale and shift")
    if site.width == groups and site.positions == 1:
        raise ValueError(f"{groups} groups of one value have no deviation")
    layer = EvoNorm2dS0(site.width, groups, apply_act=site.activated)
    return layer if site.shape == "map" else OnVectors(layer)


class OnVectors(nn.Module):
    """Applies a layer for maps to vectors (N, C), as maps of one position."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) → (N, C)."""
        y: Tensor = self.layer(x[:, :, None, None])
        return y[:, :, 0, 0]
