"""timm's ResNet (He et al. 2016, 1512.03385) with a stem for small images."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet, make_blocks
from torch import Tensor, nn

from benchmark.backbones.base import ImageShape, Mask, MaskedBackbone
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
    "defaults": {"branch_gain": 1},
    "normalized": True,
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

    `branch_gain` is the scale with which the last norm of each residual branch starts: 1, or 0 (Goyal et
    al. 2017, 1706.02677, §5.1; timm's default), which helps long runs of deep networks and costs
    short ones of shallow networks. Norms without a scale take no notice of it.
    """
    if len(channels) != len(layers) or len(channels) != 4:
        raise UserError(
            f"backbone resnet: channels {channels} and layers {layers} must have four entries each"
        )

    net: Any = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=tuple(channels))  # type: ignore[arg-type]  # timm's annotation lacks type[…]
    # timm's stem is 64 channels wide, whatever the first stage is; ours has the stage's width. So
    # timm's class gives the forward pass, and stem and stages are made here, by timm's functions.
    # With 64 channels it is the network timm would build.
    net.conv1 = nn.Conv2d(
        shape.channels, channels[0], stem_kernel, stem_stride, stem_kernel // 2, bias=False
    )
    if not stem_pool:
        net.maxpool = nn.Identity()
    stages, _ = make_blocks(
        (BasicBlock,) * 4, tuple(channels), tuple(layers), channels[0],
        act_layer=nn.ReLU, norm_layer=_to_be_placed,
    )  # fmt: skip
    for name, stage in stages:
        setattr(net, name, stage)
    _place(net, [stage for _, stage in stages], norms, shape)
    net.init_weights(zero_init_last=branch_gain == 0)
    return TimmResNet(net, shape)


def _to_be_placed(width: int, **_: object) -> nn.Module:
    return nn.Identity()


def _place(net: Any, stages: list[Any], norms: SectionNorms, shape: ImageShape) -> None:
    """Puts the norms of a scheme, and what comes with them, into every site."""

    def halved(sides: tuple[int, int]) -> tuple[int, int]:
        return (sides[0] + 1) // 2, (sides[1] + 1) // 2

    kernel, stride, padding = net.conv1.kernel_size[0], net.conv1.stride[0], net.conv1.padding[0]
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in shape[1:])
    net.conv1 = norms.convolution(net.conv1)
    net.bn1, net.act1 = norms.activated(
        "map", net.conv1.out_channels, nn.ReLU(inplace=True), height * width
    )
    sides = (height, width) if isinstance(net.maxpool, nn.Identity) else halved((height, width))
    for number, stage in enumerate(stages):
        sides = sides if number == 0 else halved(sides)
        positions = sides[0] * sides[1]
        for block in stage:
            channels = block.conv2.out_channels
            block.conv1, block.conv2 = map(norms.convolution, (block.conv1, block.conv2))
            block.bn1, block.act1 = norms.activated(
                "map", channels, nn.ReLU(inplace=True), positions
            )
            block.bn2 = norms.layer("map", channels, positions)
            if block.downsample is not None:
                block.downsample[0] = norms.convolution(block.downsample[0])
                block.downsample[1] = norms.layer("map", channels, positions)
            # drop_path is what timm applies last on the branch, just before the addition.
            block.drop_path = norms.branch()


class TimmResNet(MaskedBackbone):
    """Pooled features of the last map."""

    def __init__(self, net: Any, shape: ImageShape) -> None:
        super().__init__()
        self.net, self.shape = net, shape
        self.width = int(net.num_features)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`: the mean over positions."""
        return {"pooled": self.net.forward_features(images).mean((2, 3))}

    def encode_masked(self, images: Tensor, mask: Mask) -> Tensor:
        """The last map (N, width, h, w) of the images with a learnt patch in place of each hidden one.

        Zeros, or any constant, would leave positions without variance, where the Jacobian of a norm over
        channels is up to 1/√eps, and a batch statistic that is mostly of the mask.
        """
        n, _, height, width = images.shape
        rows, columns = height // mask.patch, width // mask.patch
        grid = mask.hidden.view(n, 1, rows, columns)
        hidden = grid.repeat_interleave(mask.patch, 2).repeat_interleave(mask.patch, 3)
        filled = self.mask_patch.to(images).repeat(1, 1, rows, columns)
        masked = torch.where(hidden, filled, images).contiguous(memory_format=torch.channels_last)
        encoded: Tensor = self.net.forward_features(masked)
        return encoded

    def decoder(self, norms: SectionNorms, width: int, patch: int) -> nn.Module:
        """One convolution over the map resampled to the patch grid, then a linear readout."""
        return MapDecoder(self.width, width, norms, patch, self.shape)

    def prepare_masking(self, patch: int) -> None:
        """A patch of pixels to be learnt, which stands for every hidden one (as SimMIM's token for a
        patch's embedding, 2111.09886, §3.2). Any size that divides the image will do."""
        self.mask_patch = nn.Parameter(torch.zeros(1, self.shape.channels, patch, patch))


class MapDecoder(nn.Module):
    """Map (N, C, h, w) → pixels of every patch (N, P, patch² · channels)."""

    def __init__(
        self, incoming: int, width: int, norms: SectionNorms, patch: int, shape: ImageShape
    ) -> None:
        super().__init__()
        positions = (shape.height // patch) * (shape.width // patch)
        self.mix = norms.convolution(nn.Conv2d(incoming, width, 3, padding=1, bias=False))
        self.norm, self.act = norms.activated("map", width, nn.ReLU(), positions)
        self.read = nn.Conv2d(width, patch * patch * shape.channels, 1)

    def forward(self, encoded: Tensor, mask: Mask) -> Tensor:
        """Decodes an encoding of `TimmResNet.encode_masked`."""
        grid = round(mask.hidden.shape[1] ** 0.5)
        rows = _bilinear(encoded.shape[2], grid, encoded)
        columns = _bilinear(encoded.shape[3], grid, encoded)
        resampled = rows @ encoded @ columns.T
        decoded: Tensor = self.read(self.act(self.norm(self.mix(resampled))))
        return decoded.flatten(2).transpose(1, 2)


def _bilinear(size: int, out: int, like: Tensor) -> Tensor:
    """The (out, size) matrix of bilinear resampling, pixel centres aligned as in torch.

    A matrix product has a deterministic gradient on every device; interpolate's has not.
    """
    position = ((torch.arange(out, dtype=torch.float64) + 0.5) * size / out - 0.5).clamp(
        0, size - 1
    )
    weight = (1 - (position[:, None] - torch.arange(size)).abs()).clamp(min=0)
    return weight.to(like)
