"""LeJEPA: prediction of views and an isotropic Gaussian (Balestriero & LeCun 2025, 2511.08544)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.core.randomness import Draw
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import sigreg

COMPONENT = {
    "name": "lejepa",
    "version": 2,
    "title": "LeJEPA",
    "views": 2,
    "local_views": True,
    "sections": ["backbone", "projector"],
    "teacher": False,
    "view_batching": "joint",
    "options": {
        "hidden": "int >= 1",
        "output": "int >= 1",
        "weight": "0 <= float <= 1",
        "slices": "int >= 1",
        "points": "int >= 2",
    },
    "example": {"hidden": 16, "output": 8, "weight": 0.05, "slices": 16, "points": 17},
}


class LeJEPA(Method):
    """Embeddings meet at the mean of the global views', and all follow a standard Gaussian."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        hidden: int,
        output: int,
        weight: float,
        slices: int,
        points: int,
    ) -> None:
        super().__init__(backbone, context)
        widths = [backbone.width, hidden, hidden, output]
        self.projector = mlp(widths, context.norms["projector"])
        self.weight, self.output, self.slices, self.points = weight, output, slices, points

    def draws(self, draw: Draw, size: int) -> dict[str, Tensor]:
        """The directions (D, M), not normalized, for embeddings of D dimensions."""
        shape = self.output, self.slices
        return {"slices": torch.randn(shape, generator=draw.generator("slices"))}

    def forward(self, batch: Batch) -> Outcome:
        """(1 − λ) mean ‖zᵥ − z̄‖² + λ SIGReg, with new random directions in each step (§5).

        z̄ is the mean of the two global views; both terms are means over all views (algorithm 2).
        """
        z = torch.stack(self.projections(batch.views))
        prediction = (z - z[:2].mean(0)).square().mean()
        directions = self.drawn(batch)["slices"].to(z)
        gaussian = torch.stack([sigreg(view, directions, self.points) for view in z]).mean()
        return Outcome((1 - self.weight) * prediction + self.weight * gaussian, None)


build = LeJEPA
