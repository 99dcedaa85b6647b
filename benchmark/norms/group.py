"""Group normalization (Wu & He 2018, 1803.08494)."""

from __future__ import annotations

from torch import nn

from benchmark.norms.factory import OverTokens, Site

COMPONENT = {
    "name": "gn",
    "version": 1,
    "options": {"groups": "int >= 1"},
    "batch_dependent": False,
    "branch": None,
    "normalizes": True,
}


def build(name: str, site: Site, groups: int) -> nn.Module:
    """GN over `groups` groups of channels; in a ViT each token is normalized by itself."""
    if site.width % groups:
        raise ValueError(f"groups {groups} do not divide {site.width} channels")
    if site.shape != "map" and site.width == groups:
        raise ValueError(f"with {groups} groups of one channel nothing is left but the bias")
    layer = nn.GroupNorm(groups, site.width)
    return OverTokens(layer) if site.shape == "tokens" else layer
