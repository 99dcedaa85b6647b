"""Layer normalization over the channels of each position (Ba et al. 2016, 1607.06450)."""

from __future__ import annotations

from timm.layers import LayerNorm, LayerNorm2d
from torch import nn

from benchmark.norms.factory import Site

COMPONENT = {
    "name": "ln",
    "version": 1,
    "options": {},
    "batch_dependent": False,
    "normalizes": True,
}


def build(name: str, site: Site) -> nn.Module:
    """timm's layers: in a map each position is normalized alone (one-group GN is another norm)."""
    kind = LayerNorm2d if site.shape == "map" else LayerNorm
    layer: nn.Module = kind(site.width, eps=1e-6, affine=site.affine)
    return layer
