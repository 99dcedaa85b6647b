"""Layer normalization (Ba et al. 2016, 1607.06450), of a sample or of each of its positions."""

from __future__ import annotations

from torch import nn

from benchmark.norms.bases import ByPosition, KeepsPrecision
from benchmark.norms.factory import Site
from benchmark.norms.group import MapGroupNorm

COMPONENT = [
    {
        "name": "ln",
        "version": 2,
        "options": {},
        "batch_dependent": False,
    },
    {
        "name": "ln-position",
        "version": 1,
        "options": {},
        "batch_dependent": False,
    },
]


def build(name: str, site: Site) -> nn.Module:
    """LN with a scale and a shift for each channel.

    On a map `ln` is over all channels and positions of a sample, as in Ba et al. (§3) and the literature
    on ResNets (Wu & He 2018, 1803.08494, §3.1: GN with one group). `ln-position` is over the channels of
    each position, as in ConvNeXt (2201.03545). On vectors and tokens they are the same: each token is
    normalized by itself.
    """
    if site.shape != "map":
        return LayerNorm(site.width, eps=site.eps, elementwise_affine=site.affine)
    if name == "ln":
        return MapGroupNorm(1, site.width, eps=site.eps, affine=site.affine)
    return PositionLayerNorm(site.width, eps=site.eps, elementwise_affine=site.affine)


class LayerNorm(KeepsPrecision, nn.LayerNorm):
    """torch's LayerNorm over the last dimension."""


class PositionLayerNorm(ByPosition, LayerNorm):
    """LayerNorm over the channels of each position of a map."""
