"""Group normalization (Wu & He 2018, 1803.08494), alone and with weight standardization."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from benchmark.norms.bases import KeepsPrecision
from benchmark.norms.factory import OverTokens, Site

COMPONENT = [
    {
        "name": "gn",
        "version": 2,
        "options": {"groups": "int >= 1"},
        "example": {"groups": 4},
        "batch_dependent": False,
    },
    {
        "name": "gn-ws",
        "version": 2,
        "options": {"groups": "int >= 1"},
        "example": {"groups": 4},
        "batch_dependent": False,
    },
]


STANDARDIZED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


def build(name: str, site: Site, groups: int) -> nn.Module:
    """GN over `groups` groups of channels; in a ViT each token is normalized by itself.

    With one group it is LN.
    """
    if site.width % groups:
        raise ValueError(f"groups {groups} do not divide {site.width} channels")
    if site.width == groups and (site.shape != "map" or site.positions == 1):
        raise ValueError(f"with {groups} groups of one channel its output is only the bias")
    if site.shape == "map":
        return MapGroupNorm(groups, site.width, eps=site.eps, affine=site.affine)
    layer = GroupNorm(groups, site.width, eps=site.eps, affine=site.affine)
    return OverTokens(layer) if site.shape == "tokens" else layer


def convolution(name: str, conv: nn.Conv2d) -> nn.Conv2d:
    """Weight standardization (1903.10520): timm's convolution with standardized filters.

    The paper defines it for convolutions, so linear layers keep their weights.
    """
    if name != "gn-ws" or isinstance(conv, STANDARDIZED):
        return conv
    if type(conv) not in (nn.Conv2d, Conv2dSame):
        raise ValueError(f"the filters of a {type(conv).__name__} cannot be standardized")
    settings: dict[str, Any] = {
        key: getattr(conv, key)
        for key in ("kernel_size", "stride", "padding", "dilation", "groups")
    }
    kind: type[nn.Conv2d] = StdConv2d
    if type(conv) is Conv2dSame:
        kind, settings["padding"] = StdConv2dSame, "SAME"
    made = kind(conv.in_channels, conv.out_channels, bias=conv.bias is not None, **settings)
    made.load_state_dict(conv.state_dict())
    return made


class GroupNorm(KeepsPrecision, nn.GroupNorm):
    """torch's GroupNorm."""


class MapGroupNorm(nn.GroupNorm):
    """torch's GroupNorm on maps, computed plane by plane for every memory format.

    On the CPU its channels_last kernel is up to 27 times slower where a group has few channels, and
    doubles a small ResNet's step. On CUDA it has none: it makes the first copy itself and leaves the
    second to each layer that comes next.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W), channels_last."""
        y = F.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        return y.to(x.dtype).contiguous(memory_format=torch.channels_last)
