"""MoCo v2 (He et al. 2020, 1911.05722; Chen et al. 2020, 2003.04297)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.core.randomness import keyed
from benchmark.methods.base import Batch, Context, Outcome, QueryAndTarget
from benchmark.methods.heads import mlp
from benchmark.methods.losses import info_nce
from benchmark.methods.teacher import Teacher, TeacherMethod

COMPONENT = {
    "name": "moco",
    "version": 1,
    "title": "MoCo v2",
    "views": 2,
    "sections": ["backbone", "projector"],
    "teacher": True,
    "options": {
        "temperature": "float > 0",
        "hidden": "int >= 1",
        "output": "int >= 1",
        "queue": "int >= 1",
        "momentum": "0 <= float <= 1",
        "symmetric": "bool",
        "momentum_end": "0 <= float <= 1",
        "projector_layers": "int >= 1",
    },
    # At 0 the momentum stays as it is.
    "defaults": {"momentum_end": 0.0, "projector_layers": 2},
    # In a longer queue an image's own past keys would be among its negatives.
    "largest_share": {"queue": 0.25},
    # A symmetric step adds the keys of both views.
    "multiple_of_batch": {"queue": ["symmetric"]},
    "example": {
        "temperature": 0.2,
        "hidden": 16,
        "output": 8,
        "queue": 16,
        "momentum": 0.9,
        "symmetric": False,
    },
    # The negatives are the keys of earlier steps.
    "per_sample_loss": True,
}


class MoCo(TeacherMethod):
    """A query must find the key of its own image among the keys of a queue."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        temperature: float,
        hidden: int,
        output: int,
        queue: int,
        momentum: float,
        symmetric: bool,
        momentum_end: float,
        projector_layers: int,
    ) -> None:
        super().__init__(backbone, context)
        widths = [backbone.width, *[hidden] * (projector_layers - 1), output]
        self.projector = mlp(widths, context.norms["projector"])
        self.teacher = Teacher(self.student(), context.teacher)
        self.temperature, self.symmetric = temperature, symmetric
        self.momentum, self.momentum_end = momentum, momentum_end or momentum
        self.queue: Tensor
        start = torch.randn(queue, output, generator=keyed(0, "moco queue"))
        self.register_buffer("queue", F.normalize(start, dim=1))

    def query_and_target(self) -> QueryAndTarget:
        """A query against its key and those of the queue."""
        return QueryAndTarget(self.student(), self.teacher.network, len(self.queue))

    def forward(self, batch: Batch) -> Outcome:
        """q = f_q(x₁), k = f_k(x₂); InfoNCE of q against k and the queue; then k joins the queue.

        The symmetric loss is the mean over both assignments of the views, so that it has the scale of
        the other one (the authors' CIFAR-10 demo takes the sum).
        """
        queries = self.each_view(self.student(), batch.views if self.symmetric else batch.views[:1])
        keys = [F.normalize(target, dim=1) for target in self.targets(batch)]
        outcomes = [
            info_nce(
                F.normalize(query, dim=1), self.matching(batch, key), self.queue, self.temperature
            )
            for query, key in zip(queries, keys, strict=True)
        ]
        if batch.last:
            self.queue = torch.cat((self.queue[len(keys) * len(keys[0]) :], *keys))
        losses, accuracies = zip(*outcomes, strict=True)
        return Outcome(torch.stack(losses).mean(), torch.stack(accuracies).mean())

    def targets(self, batch: Batch) -> list[Tensor]:
        """The teacher's output of the other view of each query."""
        return self.each_target(self.teacher, batch, [1, 0] if self.symmetric else [1])


build = MoCo
