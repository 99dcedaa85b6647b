"""timm's vision transformer (Dosovitskiy et al. 2021, 2010.11929)."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from benchmark.backbones.base import ImageShape, Mask, MaskedBackbone
from benchmark.errors import UserError
from benchmark.norms.factory import SectionNorms

COMPONENT = {
    "name": "vit",
    "version": 1,
    "options": {
        "width": "int >= 1",
        "depth": "int >= 1",
        "heads": "int >= 1",
        "mlp_ratio": "float > 0",
        "patch": "int >= 1",
    },
    "normalized": True,
}


def build(
    shape: ImageShape,
    norms: SectionNorms,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
    patch: int,
) -> TimmViT:
    """A pre-norm ViT with a class token and learnt positions; the final norm is before the pool."""
    if shape.height % patch or shape.width % patch:
        raise UserError(f"family vit: patch {patch} does not divide {shape.height}×{shape.width}")
    if width % heads:
        raise UserError(f"family vit: heads {heads} do not divide width {width}")
    net = VisionTransformer(
        img_size=(shape.height, shape.width), patch_size=patch, in_chans=shape.channels,
        num_classes=0, global_pool="token", embed_dim=width, depth=depth, num_heads=heads,
        mlp_ratio=mlp_ratio, norm_layer=_injected(norms),
    )  # fmt: skip
    _add_branches(net.blocks, norms)
    return TimmViT(net)


def _injected(norms: SectionNorms):  # type: ignore[no-untyped-def]  # timm asks for a plain function
    def norm(width: int, **_: object) -> nn.Module:
        return norms.layer("tokens", width)

    return norm


def _add_branches(blocks: nn.Module, norms: SectionNorms) -> None:
    for block in blocks.modules():
        if isinstance(block, Block):
            for name in ("ls1", "ls2"):
                if (branch := norms.branch()) is not None:
                    setattr(block, name, branch)


class TimmViT(MaskedBackbone):
    """The mean of the patch tokens after the final norm."""

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = net
        self.width = int(net.embed_dim)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`: the mean of the patch tokens; `class_token`: that token's output."""
        tokens = self.net.forward_features(images)
        return {"pooled": tokens[:, 1:].mean(1), "class_token": tokens[:, 0]}

    def encode_masked(self, images: Tensor, mask: Mask) -> Tensor:
        """Tokens (N, 1 + V, width) of the class token and the visible patches alone (MAE §3)."""
        tokens = self.net._pos_embed(self.net.patch_embed(images))
        index = mask.visible[:, :, None].expand(-1, -1, self.width)
        tokens = torch.cat((tokens[:, :1], tokens[:, 1:].gather(1, index)), 1)
        encoded: Tensor = self.net.norm(self.net.blocks(tokens))
        return encoded

    def decoder(self, norms: SectionNorms, width: int, patch: int) -> nn.Module:
        """One transformer block over visible and mask tokens."""
        return TokenDecoder(self, width, norms)

    def check_patch(self, patch: int) -> None:
        """The masked patches are the ViT's own."""
        own = int(self.net.patch_embed.patch_size[0])
        if patch != own:
            raise UserError(f"method mae: patch {patch} is not the ViT's patch {own}")


class TokenDecoder(nn.Module):
    """Tokens (N, 1 + V, C) → pixels of every patch (N, P, patch² · channels) (MAE, 2111.06377)."""

    def __init__(self, backbone: TimmViT, width: int, norms: SectionNorms) -> None:
        super().__init__()
        embed = backbone.net.patch_embed
        self.embed = nn.Linear(backbone.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + embed.num_patches, width))
        self.block = Block(width, 2, qkv_bias=True, norm_layer=_injected(norms))
        _add_branches(self.block, norms)
        self.norm = norms.layer("tokens", width)
        self.read = nn.Linear(width, embed.patch_size[0] ** 2 * backbone.net.in_chans)

    def forward(self, encoded: Tensor, mask: Mask) -> Tensor:
        """Decodes an encoding of `TimmViT.encode_masked`."""
        tokens = self.embed(encoded)
        n, total = mask.hidden.shape
        index = mask.visible[:, :, None].expand(-1, -1, tokens.shape[2])
        # Under bfloat16 autocast the tokens are of another type than the parameter.
        mask_token = self.mask_token.to(tokens)
        grid = mask_token.expand(n, total, -1).scatter(1, index, tokens[:, 1:])
        tokens = torch.cat((tokens[:, :1], grid), 1) + self.pos_embed
        decoded: Tensor = self.read(self.norm(self.block(tokens)))
        return decoded[:, 1:]
