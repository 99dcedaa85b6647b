"""Encoders and decoders of masked images: of the visible tokens, and of maps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from benchmark.backbones.base import ImageShape, Mask
from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms


def embedded(net: Any, images: Tensor) -> Tensor:
    """Tokens (N, K + P, width) of the K class tokens and registers and the patches, with positions.

    For images of another size than the network's, the learnt positions are resampled.
    """
    tokens = net.patch_embed(images)
    if own_size(net, images):
        return net._pos_embed(tokens)
    special = [token for token in (net.cls_token, net.reg_token) if token is not None]
    if sum(token.shape[1] for token in special) != net.num_prefix_tokens or net.pos_embed is None:
        raise UserError(f"a {type(net).__name__} takes images of one size")
    grid = net.patch_embed.dynamic_feat_size(images.shape[2:])
    like = net.pos_embed
    matrix = _resampling(net.patch_embed.grid_size, grid, like.device, like.dtype)
    first = 0 if net.no_embed_class else net.num_prefix_tokens
    # Autocast would make the sum, and so the residual stream, less precise than at the own size.
    with torch.autocast(images.device.type, enabled=False):
        positions = torch.cat((net.pos_embed[:, :first], matrix @ net.pos_embed[:, first:]), 1)
    each = [token.expand(len(images), -1, -1) for token in special]
    if net.no_embed_class:
        return torch.cat((*each, tokens + positions), 1)
    return torch.cat((*each, tokens), 1) + positions


def own_size(net: Any, images: Tensor) -> bool:
    """Whether a ViT needs no other positions for images of this size."""
    return bool(net.dynamic_img_size or images.shape[2:] == net.patch_embed.img_size)


@functools.cache
def _resampling(
    old: tuple[int, int], new: tuple[int, int], device: torch.device, kind: torch.dtype
) -> Tensor:
    """The (new, old) matrix of timm's resampling of positions from one grid to another (bicubic).

    It is the resampling of the unit vectors. A matrix product has a deterministic gradient on every
    device, interpolate does not. It is made once, since its copy to the device waits.
    """
    unit = torch.eye(old[0] * old[1], device="cpu")[None]
    matrix = resample_abs_pos_embed(unit, list(new), list(old), num_prefix_tokens=0)[0]
    return matrix.to(device, kind)


def encode_visible(
    net: VisionTransformer, images: Tensor, mask: Mask, normalized: Callable[[Tensor], Tensor]
) -> Tensor:
    """Tokens (N, K + V, width): the K class tokens and registers, and the visible patches (MAE §3)."""
    tokens = embedded(net, images)
    first = net.num_prefix_tokens
    index = mask.visible[:, :, None].expand(-1, -1, tokens.shape[2])
    tokens = torch.cat((tokens[:, :first], tokens[:, first:].gather(1, index)), 1)
    return normalized(net.blocks(net.norm_pre(tokens)))


def fill_hidden(images: Tensor, mask: Mask, patch: Tensor) -> Tensor:
    """The images with a learnt `patch` (1, C, p, p) in place of each hidden one, channels_last.

    With a constant instead, positions would have no variance, the Jacobian of a norm over channels
    would be up to 1/√eps there, and batch statistics would mostly be those of the mask.
    """
    n, _, height, width = images.shape
    rows, columns = height // mask.patch, width // mask.patch
    grid = mask.hidden.view(n, 1, rows, columns)
    hidden = grid.repeat_interleave(mask.patch, 2).repeat_interleave(mask.patch, 3)
    filled = patch.to(images).repeat(1, 1, rows, columns)
    return torch.where(hidden, filled, images).contiguous(memory_format=torch.channels_last)


class TokenDecoder(nn.Module):
    """Tokens (N, K + V, C) → pixels of every patch (N, P, patch² · channels) (MAE, 2111.06377).

    Pre-norm blocks for every placement in the backbone: the decoder is a section of its own.
    """

    def __init__(
        self, net: VisionTransformer, width: int, norms: SectionNorms, depth: int, heads: int
    ) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"method mae: decoder_heads {heads} does not divide the width {width}")
        embed, self.first = net.patch_embed, int(net.num_prefix_tokens)
        positions, class_token = self.first + embed.num_patches, net.cls_token is not None
        self.embed = nn.Linear(net.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))

        def layer(width: int, **_: object) -> nn.Module:
            return norms.layer("tokens", width, positions, class_token=class_token)

        blocks = [Block(width, heads, qkv_bias=True, norm_layer=layer) for _ in range(depth)]  # type: ignore[arg-type]  # timm calls it
        for block in blocks:
            for name in ("ls1", "ls2"):
                setattr(block, name, norms.branch() or getattr(block, name))
        # Initial weights are drawn by name, and one block was there first.
        self.block = blocks[0] if depth == 1 else nn.Sequential(*blocks)
        self.norm = layer(width)
        self.read = nn.Linear(width, embed.patch_size[0] ** 2 * net.in_chans)

    def forward(self, encoded: Tensor, mask: Mask) -> Tensor:
        """Decodes an encoding of `encode_visible`."""
        tokens = self.embed(encoded)
        n, total = mask.hidden.shape
        index = mask.visible[:, :, None].expand(-1, -1, tokens.shape[2])
        # Under bfloat16 autocast the tokens have another type than the parameter.
        mask_token = self.mask_token.to(tokens)
        grid = mask_token.expand(n, total, -1).scatter(1, index, tokens[:, self.first :])
        tokens = torch.cat((tokens[:, : self.first], grid), 1) + self.pos_embed
        return self.read(self.norm(self.block(tokens)))[:, self.first :]


class MapDecoder(nn.Module):
    """Map (N, C, h, w) → pixels of every patch (N, P, patch² · channels).

    One convolution over the map resampled to the patch grid, then a linear readout.
    """

    def __init__(
        self, incoming: int, width: int, norms: SectionNorms, patch: int, shape: ImageShape
    ) -> None:
        super().__init__()
        positions = (shape.height // patch) * (shape.width // patch)
        self.mix = norms.convolution(nn.Conv2d(incoming, width, 3, padding=1, bias=False))
        self.norm, self.act = norms.activated("map", width, nn.ReLU(), positions)
        self.read = nn.Conv2d(width, patch * patch * shape.channels, 1)

    def forward(self, encoded: Tensor, mask: Mask) -> Tensor:
        """Decodes the map of images that `fill_hidden` has filled."""
        grid = round(mask.hidden.shape[1] ** 0.5)
        rows = _bilinear(encoded.shape[2], grid, encoded)
        columns = _bilinear(encoded.shape[3], grid, encoded)
        resampled = rows @ encoded @ columns.T
        return self.read(self.act(self.norm(self.mix(resampled)))).flatten(2).transpose(1, 2)


def _bilinear(size: int, out: int, like: Tensor) -> Tensor:
    """The (out, size) matrix of bilinear resampling, pixel centres aligned as in torch.

    A matrix product has a deterministic gradient on every device, interpolate does not.
    """
    places = torch.arange(out, dtype=torch.float64, device=like.device)
    position = ((places + 0.5) * size / out - 0.5).clamp(0, size - 1)
    pixels = torch.arange(size, device=like.device)
    weight = (1 - (position[:, None] - pixels).abs()).clamp(min=0)
    return weight.to(like)
