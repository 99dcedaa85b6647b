"""Masked autoencoder (He et al. 2022, 2111.06377); on a ResNet, its convolutional counterpart."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from benchmark.backbones.base import Backbone, Mask, MaskedBackbone, patches, random_mask
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw
from benchmark.methods.base import Batch, Context, MaskedMethod, Outcome
from benchmark.methods.losses import masked_reconstruction, patch_errors

COMPONENT = {
    "name": "mae",
    "version": 3,
    "title": "MAE",
    "views": 1,
    "sections": ["backbone", "decoder"],
    "teacher": False,
    "options": {
        "mask_ratio": "0 < float < 1",
        "patch": "int >= 1",
        "decoder_width": "int >= 1",
        "normalize_target": "bool",
        "decoder_depth": "int >= 1",
        "decoder_heads": "int >= 1",
    },
    "defaults": {"decoder_depth": 1, "decoder_heads": 2},
    "example": {"mask_ratio": 0.75, "patch": 4, "decoder_width": 8, "normalize_target": False},
    "per_sample_loss": True,
}


class MAE(MaskedMethod):
    """The pixels of hidden patches, from the visible ones."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        mask_ratio: float,
        patch: int,
        decoder_width: int,
        normalize_target: bool,
        decoder_depth: int,
        decoder_heads: int,
    ) -> None:
        super().__init__(backbone, context)
        if not isinstance(backbone, MaskedBackbone):
            raise UserError("method mae needs a backbone that encodes masked images, e.g. vit")
        if context.shape.height % patch or context.shape.height != context.shape.width:
            raise UserError(
                f"method mae: patch {patch} does not divide "
                f"{context.shape.height}×{context.shape.width}"
            )
        backbone.prepare_masking(patch)
        self.grid = context.shape.height // patch
        if not 0 < round(mask_ratio * self.grid**2) < self.grid**2:
            raise UserError(
                f"method mae: mask_ratio {mask_ratio} hides none or all of {self.grid**2} patches"
            )
        self.decoder = backbone.decoder(
            context.norms["decoder"], decoder_width, patch, decoder_depth, decoder_heads
        )
        self.mask_ratio, self.patch, self.normalize_target = mask_ratio, patch, normalize_target

    def draws(self, draw: Draw, size: int) -> dict[str, Tensor]:
        """The step's mask, see `Mask`."""
        mask = self.mask(size, draw.generator("mask"))
        return {"hidden": mask.hidden, "visible": mask.visible}

    def forward(self, batch: Batch) -> Outcome:
        """Mean squared error on the hidden patches, each standardised if `normalize_target`."""
        (view,) = batch.views
        drawn = self.drawn(batch)
        mask = Mask(batch.own(drawn["hidden"]), batch.own(drawn["visible"]), self.patch)
        prediction, target, hidden = self.reconstruct(view, mask)
        return Outcome(masked_reconstruction(prediction, target, hidden), None)

    def mask(self, n: int, generator: torch.Generator) -> Mask:
        """`mask_ratio` of the patches, uniformly at random."""
        return random_mask(n, self.grid, self.mask_ratio, self.patch, generator)

    def reconstruct(self, view: Tensor, mask: Mask) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction and target (N, P, D) of every patch, and which are hidden (N, P)."""
        mask = mask.to(view.device)
        target = patches(view, self.patch)
        if self.normalize_target:
            variance, mean = target.var(2, keepdim=True), target.mean(2, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        encoded = cast(MaskedBackbone, self.backbone).encode_masked(view, mask)
        return self.decoder(encoded, mask), target, mask.hidden

    def errors(self, view: Tensor, mask: Mask) -> Tensor:
        """The mean squared error on each image's hidden patches."""
        prediction, target, hidden = self.reconstruct(view, mask)
        return patch_errors(prediction, target, hidden)


build = MAE
