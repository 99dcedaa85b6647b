"""Root-mean-square normalization of each position (Zhang & Sennrich 2019, 1910.07467)."""

from __future__ import annotations

from timm.layers import RmsNorm, RmsNorm2d
from torch import nn

from benchmark.norms.factory import Site

COMPONENT = {
    "name": "rmsnorm",
    "version": 1,
    "options": {},
    "batch_dependent": False,
    "normalizes": True,
}


def build(name: str, site: Site) -> nn.Module:
    """timm's layers: a scale and no shift, as in the paper (§3)."""
    kind = RmsNorm2d if site.shape == "map" else RmsNorm
    layer: nn.Module = kind(site.width, eps=1e-6, affine=site.affine)
    return layer
