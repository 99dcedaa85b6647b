"""Instance normalization: each channel of each image by itself (Ulyanov et al. 2016, 1607.08022)."""

from __future__ import annotations

from torch import nn

from benchmark.norms.factory import Site

COMPONENT = {
    "name": "in",
    "version": 1,
    "options": {},
    "batch_dependent": False,
}


def build(name: str, site: Site) -> nn.Module:
    """torch's layer without running statistics, for maps alone."""
    if site.shape != "map":
        raise ValueError("it normalizes over the positions of a map")
    if site.positions == 1:
        raise ValueError("on a 1×1 map its output is only the bias")
    return nn.InstanceNorm2d(site.width, site.eps, affine=site.affine)
