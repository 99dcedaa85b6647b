"""BYOL: bootstrap your own latent (Grill et al. 2020, 2006.07733)."""

from __future__ import annotations

from torch import nn

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import regression
from benchmark.methods.teacher import Teacher, TeacherMethod

COMPONENT = {
    "name": "byol",
    "version": 1,
    "title": "BYOL",
    "views": 2,
    "sections": ["backbone", "projector", "predictor"],
    "teacher": True,
    "options": {
        "hidden": "int >= 1",
        "output": "int >= 1",
        "momentum": "0 <= float <= 1",
        "loss_norm": ["l2", "layer", "batch", "none"],
        "momentum_end": "0 <= float <= 1",
    },
    "defaults": {"momentum_end": 1.0},
    "example": {"hidden": 16, "output": 8, "momentum": 0.9, "loss_norm": "l2"},
    "per_sample_loss": True,
    "whole_batch_loss": {"loss_norm": ["batch"]},
}


class BYOL(TeacherMethod):
    """The student predicts its teacher's projection of the other view, without negatives."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        hidden: int,
        output: int,
        momentum: float,
        loss_norm: str,
        momentum_end: float,
    ) -> None:
        super().__init__(backbone, context)
        self.projector = mlp([backbone.width, hidden, output], context.norms["projector"])
        self.predictor = mlp([output, hidden, output], context.norms["predictor"])
        self.teacher = Teacher(self.student(), context.teacher)
        self.momentum, self.momentum_end = momentum, momentum_end
        self.loss_norm = loss_norm

    def forward(self, batch: Batch) -> Outcome:
        """p = q(g(f(x))), z' = g'(f'(x')); ‖p̂₁ − ẑ'₂‖² + ‖p̂₂ − ẑ'₁‖² (equations 2 and 3).

        The hat is `loss_norm`: length 1 in the paper, whose table 20 compares the others.
        """
        predict = nn.Sequential(self.student(), self.predictor)
        first, second = self.each_view(predict, batch.views)
        targets = [self.matching(batch, target) for target in self.targets(batch)]
        loss = regression(first, targets[1], self.loss_norm)
        return Outcome(loss + regression(second, targets[0], self.loss_norm), None)


build = BYOL
