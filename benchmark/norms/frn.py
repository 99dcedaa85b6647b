"""Filter response normalization with its thresholded unit (Singh & Krishnan 2020, 1911.09737)."""

from __future__ import annotations

from timm.layers import FilterResponseNormTlu2d
from torch import nn

from benchmark.norms.factory import Site

COMPONENT = {
    "name": "frn",
    "version": 1,
    "options": {},
    "batch_dependent": False,
    "activates": True,
}


def build(name: str, site: Site) -> nn.Module:
    """timm's layer, without the threshold if no activation follows."""
    if site.shape != "map":
        raise ValueError("it normalizes over the positions of a map")
    if site.positions == 1:
        raise ValueError("on a 1×1 map its output is little more than the sign (§3.1)")
    if not site.affine:
        raise ValueError("it always has a scale and a shift")
    return FilterResponseNormTlu2d(site.width, apply_act=site.activated, eps=site.eps)
