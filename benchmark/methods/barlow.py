"""Barlow Twins: redundancy reduction (Zbontar et al. 2021, 2103.03230)."""

from __future__ import annotations

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import redundancy

COMPONENT = {
    "name": "barlow",
    "version": 1,
    "title": "Barlow Twins",
    "views": 2,
    "sections": ["backbone", "projector"],
    "teacher": False,
    "options": {
        "hidden": "int >= 1",
        "output": "int >= 1",
        "off_diagonal": "float >= 0",
        "scale": "float > 0",
        "loss_norm": ["batch", "none"],
        "projector_layers": "int >= 1",
    },
    "defaults": {"projector_layers": 3},
    "example": {
        "hidden": 16,
        "output": 8,
        "off_diagonal": 0.005,
        "scale": 0.1,
        "loss_norm": "batch",
    },
}


class BarlowTwins(Method):
    """The loss drives the cross-correlation of two views' embeddings to the identity."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        hidden: int,
        output: int,
        off_diagonal: float,
        scale: float,
        loss_norm: str,
        projector_layers: int,
    ) -> None:
        super().__init__(backbone, context)
        widths = [backbone.width, *[hidden] * (projector_layers - 1), output]
        self.projector = mlp(widths, context.norms["projector"], last="none")
        self.off_diagonal, self.scale, self.loss_norm = off_diagonal, scale, loss_norm

    def forward(self, batch: Batch) -> Outcome:
        """Σ (1 − Cᵢᵢ)² + λ Σ Cᵢⱼ², times `scale` (equation 1; the authors' code has a scale, too)."""
        first, second = self.projections(batch.views)
        loss = redundancy(first, second, self.off_diagonal, self.loss_norm)
        return Outcome(self.scale * loss, None)


build = BarlowTwins
