"""timm's vision transformer (Dosovitskiy et al. 2021, 2010.11929)."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from benchmark.backbones.base import ImageShape, Mask, MaskedBackbone
from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms

COMPONENT = {
    "name": "vit",
    "version": 2,
    "options": {
        "embed_dim": "int >= 1",
        "depth": "int >= 1",
        "num_heads": "int >= 1",
        "mlp_ratio": "float > 0",
        "patch_size": "int >= 1",
        "placement": ["pre", "res-post", "post"],
        "final_norm": ["before-pool", "after-pool", "class-token", "none"],
        "mlp_norm": "bool",
        "qk_norm": "bool",
    },
    "example": {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "patch_size": 4},
    "defaults": {
        "placement": "pre",
        "final_norm": "before-pool",
        "mlp_norm": False,
        "qk_norm": False,
    },
    "normalized": True,
}


def build(
    shape: ImageShape,
    norms: SectionNorms,
    embed_dim: int,
    depth: int,
    num_heads: int,
    mlp_ratio: float,
    patch_size: int,
    placement: str,
    final_norm: str,
    mlp_norm: bool,
    qk_norm: bool,
) -> TimmViT:
    """A ViT with a class token and learnt positions.

    `placement`: x + f(norm(x)) (`pre`), x + norm(f(x)) (`res-post`, Swin v2, 2111.09883) or
    norm(x + f(x)) (`post`, 1706.03762). `final_norm`: on all tokens before pooling, on the pooled
    embedding, on the class token (then methods train this embedding), or none. `mlp_norm`: another norm
    between the MLP's two layers. `qk_norm`: norms on the queries and keys of each head.
    """
    if shape.height % patch_size or shape.width % patch_size:
        raise UserError(
            f"backbone vit: patch_size {patch_size} does not divide {shape.height}×{shape.width}"
        )
    if embed_dim % num_heads:
        raise UserError(
            f"backbone vit: num_heads {num_heads} does not divide embed_dim {embed_dim}"
        )
    positions = 1 + shape.height * shape.width // patch_size**2
    net = VisionTransformer(
        img_size=(shape.height, shape.width), patch_size=patch_size, in_chans=shape.channels,
        num_classes=0, global_pool="token", embed_dim=embed_dim, depth=depth, num_heads=num_heads,
        mlp_ratio=mlp_ratio, qk_norm=qk_norm, scale_mlp_norm=mlp_norm, final_norm=False,
        norm_layer=_injected(norms, positions),
        block_fn=BLOCKS[placement],
    )  # fmt: skip
    net.patch_embed.strict_img_size = False
    if final_norm != "none":
        net.norm = norms.layer("tokens", embed_dim, positions if final_norm == "before-pool" else 1)
    _add_branches(net.blocks, norms)
    return TimmViT(net, final_norm)


class PostBlock(Block):
    """timm's block with norm(x + f(x)) in place of x + f(norm(x))."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens (N, T, C) → (N, T, C)."""
        attended = self.attn(x, attn_mask=attn_mask, is_causal=is_causal)
        x = self.norm1(x + self.ls1(attended))
        return self.norm2(x + self.ls2(self.mlp(x)))


BLOCKS = {"pre": Block, "res-post": ResPostBlock, "post": PostBlock}


def _injected(norms: SectionNorms, positions: int) -> Any:
    def norm(width: int, **_: object) -> nn.Module:
        return norms.layer("tokens", width, positions)

    return norm


def _add_branches(blocks: nn.Module, norms: SectionNorms) -> None:
    """Puts the norm's layer at the end of every residual branch, if it has one."""
    for block in blocks.modules():
        if not isinstance(block, Block | ResPostBlock):
            continue
        ends = ("drop_path1", "drop_path2") if isinstance(block, ResPostBlock) else ("ls1", "ls2")
        for name in ends:
            setattr(block, name, norms.branch() or getattr(block, name))


def _resampling(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The (new, old) matrix of timm's resampling of positions from one grid to another (bicubic).

    It is the resampling of the unit vectors. A matrix product has a deterministic gradient on every
    device, interpolate does not.
    """
    unit = torch.eye(old[0] * old[1], device="cpu")[None]
    return resample_abs_pos_embed(unit, list(new), list(old), num_prefix_tokens=0)[0]


class TimmViT(MaskedBackbone):
    """The mean of the patch tokens, and the class token."""

    def __init__(self, net: VisionTransformer, final_norm: str) -> None:
        super().__init__()
        self.net = net
        self.width = int(net.embed_dim)
        self.final_norm = final_norm
        if final_norm == "class-token":
            self.trained = "class_token"

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`: the mean of the patch tokens; `class_token`: that token's output."""
        tokens = self._normalized(self.net.blocks(self._embedded(images)))
        pooled = tokens[:, 1:].mean(1)
        if self.final_norm == "after-pool":
            pooled = self.net.norm(pooled)
        return {"pooled": pooled, "class_token": tokens[:, 0]}

    def _embedded(self, images: Tensor) -> Tensor:
        """Tokens (N, 1 + P, C) with their positions, the class token first.

        For images of another size than the network's, the learnt positions are resampled.
        """
        net: Any = self.net
        tokens = net.patch_embed(images)
        if images.shape[2:] == net.patch_embed.img_size:
            return net._pos_embed(tokens)
        grid = net.patch_embed.dynamic_feat_size(images.shape[2:])
        matrix = _resampling(net.patch_embed.grid_size, grid).to(net.pos_embed)
        # Autocast would make the sum, and so the residual stream, less precise than at the own size.
        with torch.autocast(images.device.type, enabled=False):
            positions = torch.cat((net.pos_embed[:, :1], matrix @ net.pos_embed[:, 1:]), 1)
        return torch.cat((net.cls_token.expand(len(images), -1, -1), tokens), 1) + positions

    def _normalized(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, C) after the final norm."""
        if self.final_norm == "before-pool":
            return self.net.norm(tokens)
        if self.final_norm == "class-token":
            return torch.cat((self.net.norm(tokens[:, :1]), tokens[:, 1:]), 1)
        return tokens

    def encode_masked(self, images: Tensor, mask: Mask) -> Tensor:
        """Tokens (N, 1 + V, width) of the class token and the visible patches alone (MAE §3)."""
        tokens = self._embedded(images)
        index = mask.visible[:, :, None].expand(-1, -1, self.width)
        tokens = torch.cat((tokens[:, :1], tokens[:, 1:].gather(1, index)), 1)
        return self._normalized(self.net.blocks(tokens))

    def decoder(self, norms: SectionNorms, width: int, patch: int) -> nn.Module:
        """One transformer block over visible and mask tokens."""
        return TokenDecoder(self, width, norms)

    def prepare_masking(self, patch: int) -> None:
        """Checks that masked patches are the ViT's patches and that the final norm is on tokens."""
        own = int(self.net.patch_embed.patch_size[0])
        if patch != own:
            raise UserError(f"method mae: patch {patch} is not the ViT's patch {own}")
        if self.final_norm == "after-pool":
            raise UserError("method mae does not pool, so final_norm cannot be 'after-pool'")


class TokenDecoder(nn.Module):
    """Tokens (N, 1 + V, C) → pixels of every patch (N, P, patch² · channels) (MAE, 2111.06377).

    One pre-norm block for every placement in the backbone: the decoder is a section of its own.
    """

    def __init__(self, backbone: TimmViT, width: int, norms: SectionNorms) -> None:
        super().__init__()
        embed = backbone.net.patch_embed
        self.embed = nn.Linear(backbone.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + embed.num_patches, width))
        positions = 1 + embed.num_patches
        self.block = Block(width, 2, qkv_bias=True, norm_layer=_injected(norms, positions))
        _add_branches(self.block, norms)
        self.norm = norms.layer("tokens", width, positions)
        self.read = nn.Linear(width, embed.patch_size[0] ** 2 * backbone.net.in_chans)

    def forward(self, encoded: Tensor, mask: Mask) -> Tensor:
        """Decodes an encoding of `TimmViT.encode_masked`."""
        tokens = self.embed(encoded)
        n, total = mask.hidden.shape
        index = mask.visible[:, :, None].expand(-1, -1, tokens.shape[2])
        # Under bfloat16 autocast the tokens have another type than the parameter.
        mask_token = self.mask_token.to(tokens)
        grid = mask_token.expand(n, total, -1).scatter(1, index, tokens[:, 1:])
        tokens = torch.cat((tokens[:, :1], grid), 1) + self.pos_embed
        return self.read(self.norm(self.block(tokens)))[:, 1:]
