"""MoCo v3: a momentum encoder, a predictor and the keys of the batch (Chen et al. 2021, 2104.02057)."""

from __future__ import annotations

from torch import nn

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import contrast_in_batch
from benchmark.methods.teacher import Teacher, TeacherMethod

COMPONENT = {
    "name": "mocov3",
    "version": 1,
    "title": "MoCo v3",
    "views": 2,
    "sections": ["backbone", "projector", "predictor"],
    "teacher": True,
    "options": {
        "temperature": "float > 0",
        "hidden": "int >= 1",
        "output": "int >= 1",
        "momentum": "0 <= float <= 1",
        "momentum_end": "0 <= float <= 1",
        "projector_layers": "int >= 1",
        "predictor_norm": "bool",
        "freeze_patches": "bool",
    },
    "defaults": {
        "momentum_end": 1.0,
        "projector_layers": 2,
        "predictor_norm": True,
        "freeze_patches": False,
    },
    "example": {"temperature": 0.2, "hidden": 16, "output": 8, "momentum": 0.9},
}


class MoCoV3(TeacherMethod):
    """A query must find the key of its own image among the keys of the batch."""

    taught = (0, 1)

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        temperature: float,
        hidden: int,
        output: int,
        momentum: float,
        momentum_end: float,
        projector_layers: int,
        predictor_norm: bool,
        freeze_patches: bool,
    ) -> None:
        super().__init__(backbone, context)
        # In the authors' code a ResNet's predictor has no norm at its end, and a ViT's projector three
        # layers.
        projector, predictor = context.norms["projector"], context.norms["predictor"]
        widths = [backbone.width, *[hidden] * (projector_layers - 1), output]
        self.projector = mlp(widths, projector, "norm without affine")
        self.predictor = mlp(
            [output, hidden, output], predictor, "norm without affine" if predictor_norm else "none"
        )
        if freeze_patches:
            backbone.freeze_patches()
        self.teacher = Teacher(self.student(), context.teacher)
        self.temperature = temperature
        self.momentum, self.momentum_end = momentum, momentum_end

    def forward(self, batch: Batch) -> Outcome:
        """ctr(q₁, k₂) + ctr(q₂, k₁), each 2τ · InfoNCE over the batch (algorithm 1)."""
        predict = nn.Sequential(self.student(), self.predictor)
        first, second = self.each_view(predict, batch.views)
        keys = self.each_target(self.teacher, batch)
        one, accuracy = contrast_in_batch(first, keys[1], self.temperature)
        other, other_accuracy = contrast_in_batch(second, keys[0], self.temperature)
        return Outcome(2 * self.temperature * (one + other), (accuracy + other_accuracy) / 2)


build = MoCoV3
