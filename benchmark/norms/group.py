"""Group normalization (Wu & He 2018, 1803.08494)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    if site.shape == "map":
        return MapGroupNorm(groups, site.width)
    layer = nn.GroupNorm(groups, site.width)
    return OverTokens(layer) if site.shape == "tokens" else layer


class MapGroupNorm(nn.GroupNorm):
    """torch's GroupNorm on maps, computed plane by plane whatever the memory format.

    On the CPU its channels_last kernel is up to 27 times slower where a group has few channels, and
    doubles a small ResNet's step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W), channels_last."""
        y = F.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        return y.contiguous(memory_format=torch.channels_last)
