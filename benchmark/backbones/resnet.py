"""timm's ResNet (He et al. 2016, 1512.03385) of basic blocks, with a stem for small images."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, ResNet, make_blocks
from torch import Tensor, nn

from benchmark.backbones.base import ImageShape
from benchmark.backbones.timm_backbone import TimmBackbone, placed
from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms

COMPONENT = {
    "name": "resnet",
    "version": 2,
    "options": {
        "channels": "list of int >= 1",
        "layers": "list of int >= 1",
        "stem_kernel": "int >= 1",
        "stem_stride": "int >= 1",
        "stem_pool": "bool",
        "branch_gain": [0, 1],
    },
    "example": {
        "channels": [8, 8, 16, 16],
        "layers": [1, 1, 1, 1],
        "stem_kernel": 3,
        "stem_stride": 1,
        "stem_pool": False,
    },
    "defaults": {"branch_gain": 1},
    "normalized": True,
    "weights": True,
}


def build(
    shape: ImageShape,
    norms: SectionNorms,
    channels: list[int],
    layers: list[int],
    stem_kernel: int,
    stem_stride: int,
    stem_pool: bool,
    branch_gain: int,
) -> TimmResNet:
    """A ResNet of basic blocks, one stage for each entry of `channels`, each halving the map.

    `branch_gain` is the initial scale of the last norm of each residual branch: 1, or 0 (Goyal et al.
    2017, 1706.02677, §5.1; timm's default), which helps long training of deep networks and slows short
    training of shallow ones. Norms without a scale ignore it.
    """
    if len(channels) != len(layers) or len(channels) != 4:
        raise UserError(
            f"backbone resnet: channels {channels} and layers {layers} must have four entries each"
        )

    def make() -> TimmResNet:
        net: Any = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=tuple(channels))  # type: ignore[arg-type]  # timm's annotation lacks type[…]
        # timm's stem always has 64 channels; ours has those of the first stage. So timm's class gives
        # the forward pass, and stem and stages are made here with timm's functions. With 64 channels it
        # is the network that timm builds.
        net.conv1 = nn.Conv2d(
            shape.channels, channels[0], stem_kernel, stem_stride, stem_kernel // 2, bias=False
        )
        net.bn1 = nn.BatchNorm2d(channels[0])
        if not stem_pool:
            net.maxpool = nn.Identity()
        stages, _ = make_blocks((BasicBlock,) * 4, tuple(channels), tuple(layers), channels[0])
        for name, stage in stages:
            setattr(net, name, stage)
        return TimmResNet(net, shape)

    made = placed(make, norms, branch_gain)
    given = {"layers": layers, "channels": channels, "in_chans": shape.channels, "num_classes": 0}
    made.like = "resnet18", given
    return made


class TimmResNet(TimmBackbone):
    """Pooled features of the last map."""

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`: the mean over positions."""
        return {"pooled": self.net.forward_features(images).mean((2, 3))}
