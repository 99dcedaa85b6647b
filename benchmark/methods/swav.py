"""SwAV: swapped assignments between views (Caron et al. 2020, 2006.09882)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import sinkhorn, swapped_prediction

COMPONENT = {
    "name": "swav",
    "version": 2,
    "title": "SwAV",
    "views": 2,
    "local_views": True,
    "sections": ["backbone", "projector"],
    "teacher": False,
    "view_batching": "joint",
    "options": {
        "temperature": "float > 0",
        "hidden": "int >= 1",
        "output": "int >= 1",
        "prototypes": "int >= 2",
        "epsilon": "float > 0",
        "iterations": "int >= 1",
        "queue": "int >= 0",
        "queue_from": "0 <= float <= 1",
        "freeze": "0 <= float <= 1",
    },
    "multiple_of_batch": {"queue": []},
    "example": {
        "temperature": 0.1,
        "hidden": 16,
        "output": 8,
        "prototypes": 12,
        "epsilon": 0.05,
        "iterations": 3,
        "queue": 0,
        "queue_from": 0.0,
        "freeze": 0.0,
    },
}


class SwAV(Method):
    """Each view predicts the clusters to which the other global views belong."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        temperature: float,
        hidden: int,
        output: int,
        prototypes: int,
        epsilon: float,
        iterations: int,
        queue: int,
        queue_from: float,
        freeze: float,
    ) -> None:
        super().__init__(backbone, context)
        self.projector = mlp([backbone.width, hidden, output], context.norms["projector"])
        self.prototypes = nn.Linear(output, prototypes, bias=False)
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_from, self.freeze = queue_from, freeze
        self.queue: Tensor
        self.register_buffer("queue", torch.zeros(2, queue, output))

    def forward(self, batch: Batch) -> Outcome:
        """Cross-entropy of each view's softmax(zᵀc / τ) against the other's assignment (equation 2).

        With local views it is the mean over all pairs of a view and another, global one, of which it
        predicts the assignment (§3.2). Assignments are the Sinkhorn–Knopp solution (§3.1) over the
        batch and, after a share `queue_from` of the training, a queue of earlier embeddings of the same
        view. Prototypes have length 1 and are frozen for the first share `freeze` of the training, as
        in the authors' code.
        """
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        self.prototypes.weight.requires_grad_(batch.progress >= self.freeze)
        z = [F.normalize(e, dim=1) for e in self.projections(batch.views)]
        scores = [self.prototypes(embedding) for embedding in z]
        filled = self.filled(batch.draw.step, batch.progress, len(z[0]))
        targets = [
            self.assign(self.queue[number] if filled else None, score.detach())
            for number, score in enumerate(scores[:2])
        ]
        self.enqueue(z[:2], batch.progress)
        return Outcome(*swapped_prediction([score / self.temperature for score in scores], targets))

    def filled(self, step: int, progress: float, batch: int) -> bool:
        """Whether earlier steps of `batch` images have filled the queues.

        Known from the step alone: to look into a queue would wait for the device.
        """
        length = self.queue.shape[1]
        # The step whose embeddings are now the oldest of a full queue.
        oldest = step - length // batch
        return bool(length) and oldest >= 0 and oldest / round(step / progress) >= self.queue_from

    @torch.no_grad()
    def assign(self, queue: Tensor | None, scores: Tensor) -> Tensor:
        """The assignment (N, K) of a view from its scores (N, K) and those of a queue (L, D)."""
        count = len(scores)
        if queue is not None:
            scores = torch.cat((scores, self.prototypes(queue)))
        return sinkhorn(scores, self.epsilon, self.iterations)[:count]

    @torch.no_grad()
    def enqueue(self, z: list[Tensor], progress: float) -> None:
        """Adds each view's embeddings to the front of its queue, from which the oldest drop out."""
        if self.queue.shape[1] and progress >= self.queue_from:
            newer = self.queue[:, : self.queue.shape[1] - len(z[0])]
            self.queue.copy_(torch.cat((torch.stack(z).detach().to(newer), newer), 1))


build = SwAV
