"""A network of timm as a backbone: its norms replaced, its readouts, its masked encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from timm.layers import PatchEmbed
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.backbones.base import ImageShape, Mask, MaskedBackbone
from benchmark.backbones.masking import (
    MapDecoder,
    TokenDecoder,
    embedded,
    encode_visible,
    fill_hidden,
    own_size,
)
from benchmark.backbones.place import place, tensors
from benchmark.backbones.sites import Sites, find_sites
from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms, SkipInit

AnyTimm = TypeVar("AnyTimm", bound="TimmBackbone")


class TimmBackbone(MaskedBackbone):
    """What timm calls pre-logits, and further readouts of a vision transformer.

    `trained` stays `pooled`: the class token of a ViT that pools by it, as by default in timm.
    """

    sites: Sites
    """The norms that the network had by itself."""
    features_shape: tuple[int, ...]
    """The shape of what its `forward_features` returns for a batch."""
    readouts: tuple[str, ...]
    """The names of what `features` returns."""
    beyond: tuple[str, ...]
    """Paths of the layers with weights between that and the embedding."""
    classifiers: tuple[str, ...] = ("fc", "head")
    """Paths of the classifier in the model of timm, which a backbone lacks."""
    like: tuple[str, dict[str, Any]] | None = None
    """A name and the arguments of timm for a model that may be the same network, for `export`."""

    def __init__(self, net: Any, shape: ImageShape) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`, and if they are not that: `class_token`, `patch_mean`, `register_mean`."""
        found = self.forward_features(images)
        readouts = {"pooled": self.net.forward_head(found, pre_logits=True)}
        if (
            isinstance(found, Tensor)
            and found.ndim == 3
            and (first := getattr(self.net, "num_prefix_tokens", 0))
        ):
            by_token = getattr(self.net, "global_pool", "") == "token"
            has_class = getattr(self.net, "cls_token", None) is not None
            if by_token:
                readouts["patch_mean"] = found[:, first:].mean(1)
            elif has_class:
                readouts["class_token"] = found[:, 0]
            if getattr(self.net, "reg_token", None) is not None:
                readouts["register_mean"] = found[:, int(has_class) : first].mean(1)
        return readouts

    def forward_features(self, images: Tensor) -> Tensor:
        """timm's, and for plain ViTs the same of images of other sizes."""
        net = self.net
        if isinstance(net, VisionTransformer) and not own_size(net, images):
            return net.norm(net.blocks(net.norm_pre(embedded(net, images))))
        return net.forward_features(images)

    def normalized(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, C) after the final norm."""
        return self.net.norm(tokens)

    def encode_masked(self, images: Tensor, mask: Mask) -> Tensor:
        """The visible tokens of a ViT (N, K + V, C), or the map (N, C, h, w) of filled images."""
        if isinstance(self.net, VisionTransformer):
            return encode_visible(self.net, images, mask, self.normalized)
        encoded = self.net.forward_features(fill_hidden(images, mask, self.mask_patch))
        return encoded.movedim(-1, 1) if self._channels_last() else encoded

    def freeze_patches(self) -> None:
        """MoCo v3's stable training of ViTs (2104.02057, §4.2)."""
        if isinstance(embedding := getattr(self.net, "patch_embed", None), PatchEmbed):
            embedding.proj.requires_grad_(False)
        else:
            super().freeze_patches()

    def layers(self) -> list[list[nn.Parameter]]:
        """Those of timm's `group_matcher`: the stem and each block, the last with the final norm."""
        if not hasattr(self.net, "group_matcher"):
            return super().layers()
        matcher = self.net.group_matcher(coarse=False)
        return list(group_parameters(self.net, matcher, return_values=True).values())

    def decoder(
        self, norms: SectionNorms, width: int, patch: int, depth: int = 1, heads: int = 2
    ) -> nn.Module:
        """Transformer blocks over visible and mask tokens, or a convolution over the map."""
        if isinstance(self.net, VisionTransformer):
            return TokenDecoder(self.net, width, norms, depth, heads)
        if (depth, heads) != (1, 2):
            raise UserError(
                f"method mae: decoder_depth is {depth} and decoder_heads {heads}, expected 1 and 2: "
                f"the decoder of a {type(self.net).__name__} is one convolution"
            )
        return MapDecoder(int(self.net.num_features), width, norms, patch, self.shape)

    def prepare_masking(self, patch: int) -> None:
        """Adds a learnt patch of pixels for hidden ones (as SimMIM's token, 2111.09886, §3.2).

        A ViT leaves hidden patches out, so its own patches have to be masked.
        """
        if (reason := self.unmaskable(patch)) is not None:
            raise UserError(f"method mae: {reason}")
        if not isinstance(self.net, VisionTransformer):
            self.mask_patch = nn.Parameter(torch.zeros(1, self.shape.channels, patch, patch))

    def unmaskable(self, patch: int | None = None) -> str | None:
        """Why the network cannot be trained on masked patches (of that many pixels), None if it can."""
        kind = type(self.net).__name__
        if isinstance(self.net, VisionTransformer):
            if not isinstance(self.net.patch_embed, PatchEmbed):
                return f"its patches are cut from a {type(self.net.patch_embed).__name__}'s output"
            own = int(self.net.patch_embed.patch_size[0])
            if patch not in (None, own):
                return f"patch {patch} is not the ViT's patch {own}"
            if any(True for _ in self.net.fc_norm.parameters()):
                return "it does not pool, so that no norm can be after the pool"
            return None
        if len(self.features_shape) != 4:
            return (
                f"a {kind} returns neither a map nor the tokens of a plain ViT, to leave some out"
            )
        if self.beyond:
            return (
                f"the embedding of a {kind} has layers after the map ({', '.join(self.beyond)}), which "
                "masked training does not reach"
            )
        return None

    def tensors(self) -> dict[str, Tensor]:
        """The network's parameters and buffers by their names in timm, see `place.tensors`."""
        return tensors(self.net, self.sites)

    def norm_paths(self) -> list[str]:
        """The places of what the scheme put into the network: norms, and scalars on branches."""
        modules = dict(self.net.named_modules())
        ends = [end.path for end in self.sites.branch_ends]
        return [
            *(site.path for site in self.sites.norms),
            *(path for path in ends if isinstance(modules.get(path), SkipInit)),
        ]

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file as timm would load them into its model; here they need no change."""
        return dict(state)

    def _channels_last(self) -> bool:
        return getattr(self.net, "output_fmt", "NCHW") == "NHWC"


def placed(make: Callable[[], AnyTimm], norms: SectionNorms, branch_gain: int = 1) -> AnyTimm:
    """The backbone that `make` returns, with the section's norms in place of its own.

    `make` is called twice, once for the forward pass on meta tensors that finds the norms.
    """
    with torch.device("meta"):
        blank = make()
        sites, readouts = find_sites(blank.net, blank.features, blank.shape)
        features_shape, beyond = _features(blank)
    if readouts["pooled"].ndim != 2:
        raise UserError(
            f"its embedding has the shape {tuple(readouts['pooled'].shape)}, expected a vector for each "
            "image (`arguments: {global_pool: avg}`?)"
        )
    made = make()
    place(made.net, sites, norms, branch_gain)
    made.sites, made.features_shape, made.beyond = sites, features_shape, beyond
    made.readouts = tuple(readouts)
    made.width = int(readouts["pooled"].shape[1])
    return made


def _features(blank: TimmBackbone) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """See `features_shape` and `beyond`; for a backbone on the meta device."""
    layers = {
        module: path
        for path, module in blank.net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    met: set[nn.Module] = set()
    hooks = [layer.register_forward_hook(lambda module, *_: met.add(module)) for layer in layers]
    found = blank.net.eval().forward_features(torch.empty(2, *blank.shape))
    for hook in hooks:
        hook.remove()
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    return shape, tuple(path for layer, path in layers.items() if layer not in met)
