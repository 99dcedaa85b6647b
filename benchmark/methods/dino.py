"""DINO: self-distillation with no labels (Caron et al. 2021, 2104.14294)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Outcome, QueryAndTarget
from benchmark.methods.heads import mlp
from benchmark.methods.losses import swapped_prediction
from benchmark.methods.teacher import Teacher, TeacherMethod

COMPONENT = {
    "name": "dino",
    "version": 2,
    "title": "DINO",
    "views": 2,
    "local_views": True,
    "sections": ["backbone", "projector"],
    "teacher": True,
    "view_batching": "joint",
    "options": {
        "hidden": "int >= 1",
        "bottleneck": "int >= 1",
        "prototypes": "int >= 2",
        "student_temperature": "float > 0",
        "teacher_temperature": "float > 0",
        "center_momentum": "0 <= float <= 1",
        "momentum": "0 <= float <= 1",
        "freeze": "0 <= float <= 1",
        "projector_layers": "int >= 1",
        "momentum_end": "0 <= float <= 1",
        "temperature_warmup": "0 <= float <= 1",
        "teacher_temperature_start": "float > 0",
    },
    "defaults": {
        "projector_layers": 3,
        "momentum_end": 1.0,
        "temperature_warmup": 0.0,
        "teacher_temperature_start": 0.04,
    },
    "example": {
        "hidden": 16,
        "bottleneck": 8,
        "prototypes": 12,
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "center_momentum": 0.9,
        "momentum": 0.9,
        "freeze": 0.0,
    },
    # The centre is that of earlier steps.
    "per_sample_loss": True,
}


class Prototypes(nn.Linear):
    """Scores of unit-length vectors against unit-length prototypes (the paper's weight norm)."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(width, count, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """(N, D) → cosines (N, K)."""
        return F.linear(F.normalize(z, dim=1), F.normalize(self.weight, dim=1))


class DINO(TeacherMethod):
    """The student's distribution over prototypes matches its teacher's on the other global views."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        hidden: int,
        bottleneck: int,
        prototypes: int,
        student_temperature: float,
        teacher_temperature: float,
        center_momentum: float,
        momentum: float,
        freeze: float,
        projector_layers: int,
        momentum_end: float,
        temperature_warmup: float,
        teacher_temperature_start: float,
    ) -> None:
        super().__init__(backbone, context)
        widths = [backbone.width, *[hidden] * (projector_layers - 1), bottleneck]
        self.projector = mlp(widths, context.norms["projector"], activation=nn.GELU)
        self.prototypes = Prototypes(bottleneck, prototypes)
        self.teacher = Teacher(self.student(), context.teacher)
        self.student_temperature, self.teacher_temperature = (
            student_temperature,
            teacher_temperature,
        )
        self.warmup, self.start_temperature = temperature_warmup, teacher_temperature_start
        self.momentum, self.momentum_end = momentum, momentum_end
        self.rate, self.freeze = center_momentum, freeze
        self.center: Tensor
        self.register_buffer("center", torch.zeros(prototypes))

    def student(self) -> nn.Sequential:
        """Backbone, projector and prototypes."""
        return nn.Sequential(self.backbone, self.projector, self.prototypes)

    @property
    def eval_backbone(self) -> Backbone:
        """The teacher's backbone, which is better throughout training (§5.1, figure 6)."""
        return cast(Backbone, cast(nn.Sequential, self.teacher.network)[0])

    def query_and_target(self) -> QueryAndTarget:
        """The student's scores against the teacher's."""
        return QueryAndTarget(self.student(), self.teacher.network)

    def targets(self, batch: Batch) -> list[Tensor]:
        """The teacher's output of each global view."""
        return self.each_target(self.teacher, batch, (0, 1))

    def sharpening(self, progress: float) -> float:
        """The teacher's temperature, which changes linearly during the share `temperature_warmup`.

        (Appendix of the paper; the authors' code changes it once an epoch.)
        """
        if progress >= self.warmup:
            return self.teacher_temperature
        start = self.start_temperature
        return start + (self.teacher_temperature - start) * progress / self.warmup

    def forward(self, batch: Batch) -> Outcome:
        """Mean of H(P_t(x), P_s(x')) over global views x and all views x' ≠ x (equation 3, a sum).

        P_t is centred and sharpened (§3.1).
        """
        self.prototypes.weight.requires_grad_(batch.progress >= self.freeze)
        student, teacher = self.student_temperature, self.sharpening(batch.progress)
        head = nn.Sequential(self.projector, self.prototypes)
        scores = self.each_view(self.backbone, batch.views, head)
        outputs = self.targets(batch)
        targets = [
            ((self.matching(batch, output) - self.center) / teacher).softmax(1)
            for output in outputs
        ]
        if batch.last:
            self.center.lerp_(torch.cat(outputs).to(self.center).mean(0), 1 - self.rate)
        return Outcome(*swapped_prediction([score / student for score in scores], targets))


build = DINO
