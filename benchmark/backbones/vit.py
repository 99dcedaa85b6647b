"""timm's vision transformer (Dosovitskiy et al. 2021, 2010.11929)."""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from benchmark.backbones.base import ImageShape
from benchmark.backbones.masking import embedded
from benchmark.backbones.timm_backbone import TimmBackbone, placed
from benchmark.core.errors import UserError
from benchmark.norms.factory import EPS, SectionNorms

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
    "weights": True,
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

    def make() -> TimmViT:
        net = VisionTransformer(
            img_size=(shape.height, shape.width), patch_size=patch_size, in_chans=shape.channels,
            num_classes=0, global_pool="token", embed_dim=embed_dim, depth=depth,
            num_heads=num_heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, scale_mlp_norm=mlp_norm,
            final_norm=final_norm != "none", norm_layer=partial(nn.LayerNorm, eps=EPS),
            block_fn=BLOCKS[placement],
        )  # fmt: skip
        net.patch_embed.strict_img_size = False
        return TimmViT(net, shape, final_norm)

    made = placed(make, norms)
    # A model of timm whose LN has the same epsilon; the arguments replace all else that is its own.
    made.like = (
        "vit_base_patch16_clip_224",
        {
            "img_size": [shape.height, shape.width], "patch_size": patch_size,
            "in_chans": shape.channels, "num_classes": 0, "global_pool": "avg", "fc_norm": False,
            "pre_norm": False, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads,
            "mlp_ratio": mlp_ratio, "qk_norm": qk_norm, "scale_mlp_norm": mlp_norm,
            "final_norm": final_norm != "none",
        },
    )  # fmt: skip
    return made


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


class TimmViT(TimmBackbone):
    """The mean of the patch tokens, and the class token."""

    def __init__(self, net: VisionTransformer, shape: ImageShape, final_norm: str) -> None:
        super().__init__(net, shape)
        self.final_norm = final_norm
        if final_norm == "class-token":
            self.trained = "class_token"

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`: the mean of the patch tokens; `class_token`: that token's output."""
        tokens = self.normalized(self.net.blocks(embedded(self.net, images)))
        pooled = tokens[:, 1:].mean(1)
        if self.final_norm == "after-pool":
            pooled = self.net.norm(pooled)
        return {"pooled": pooled, "class_token": tokens[:, 0]}

    def normalized(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, C) after the final norm."""
        if self.final_norm == "before-pool":
            return self.net.norm(tokens)
        if self.final_norm == "class-token":
            return torch.cat((self.net.norm(tokens[:, :1]), tokens[:, 1:]), 1)
        return tokens

    def unmaskable(self, patch: int | None = None) -> str | None:
        """See the base class."""
        if self.final_norm == "after-pool":
            return "it does not pool, so final_norm cannot be 'after-pool'"
        return super().unmaskable(patch)
