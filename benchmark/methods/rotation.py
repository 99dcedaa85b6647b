"""Rotation prediction (Gidaris et al. 2018, 1803.07728)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.losses import classification

COMPONENT = {
    "name": "rotation",
    "version": 1,
    "title": "Rotation",
    "views": 1,
    "sections": ["backbone"],
    "teacher": False,
    "options": {"rotations": [1, 4]},
    "example": {"rotations": 1},
    "per_sample_loss": True,
    "repeats": ["rotations"],
}


class Rotation(Method):
    """Predicts by how many quarter turns an image was rotated."""

    def __init__(self, backbone: Backbone, context: Context, rotations: int) -> None:
        super().__init__(backbone, context)
        if context.shape.height != context.shape.width:
            raise UserError(
                f"method rotation needs square images, not {context.shape.height}×{context.shape.width}"
            )
        self.classifier = nn.Linear(backbone.width, 4)
        self.rotations = rotations

    def draws(self, draw: Draw, size: int) -> dict[str, Tensor]:
        """The number of quarter turns of each image, if it gets one of the four."""
        if self.rotations == 4:
            return {}
        return {"turns": torch.randint(4, (size,), generator=draw.generator("rotation"))}

    def forward(self, batch: Batch) -> Outcome:
        """Cross-entropy over the four turns.

        A batch has all four of each image (as in the paper, §3.1) or a random one of each, which gives
        four times the steps at the same cost. The four are neighbours in the batch, so that no BN group
        has images of a single turn.
        """
        (view,) = batch.views
        if self.rotations == 4:
            target = torch.arange(4, device=view.device).repeat(len(view))
        else:
            target = batch.own(self.drawn(batch)["turns"])
        # All four are made, so that no shape depends on a draw.
        turned = torch.stack([view.rot90(turns, (2, 3)) for turns in range(4)])
        image = torch.arange(len(target), device=view.device) // self.rotations
        logits = self.classifier(self.backbone(turned[target, image].contiguous()))
        return Outcome(*classification(logits, target))


build = Rotation
