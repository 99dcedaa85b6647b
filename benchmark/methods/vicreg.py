"""VICReg: variance, invariance, covariance (Bardes et al. 2022, 2105.04906)."""

from __future__ import annotations

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import covariance_term, normalized, variance_term

COMPONENT = {
    "name": "vicreg",
    "version": 1,
    "title": "VICReg",
    "views": 2,
    "sections": ["backbone", "projector"],
    "teacher": False,
    "options": {
        "hidden": "int >= 1",
        "output": "int >= 1",
        "invariance": "float >= 0",
        "variance": "float >= 0",
        "covariance": "float >= 0",
        "loss_norm": ["none", "l2", "layer", "batch"],
    },
    "example": {
        "hidden": 16,
        "output": 8,
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
        "loss_norm": "none",
    },
}


class VICReg(Method):
    """Views agree, every dimension varies, and dimensions are uncorrelated."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        hidden: int,
        output: int,
        invariance: float,
        variance: float,
        covariance: float,
        loss_norm: str,
    ) -> None:
        super().__init__(backbone, context)
        widths = [backbone.width, hidden, hidden, output]
        self.projector = mlp(widths, context.norms["projector"], last="none")
        self.weights = invariance, variance, covariance
        self.loss_norm = loss_norm

    def forward(self, batch: Batch) -> Outcome:
        """λ s(Z, Z') + μ [v(Z) + v(Z')] / 2 + ν [c(Z) + c(Z')] (equation 6).

        As in the authors' code, the invariance is a mean over dimensions too, and the variance terms are
        averaged over the views but the covariance terms summed. `loss_norm` normalizes the embeddings
        first (the paper: `none`).
        """
        z = [normalized(e, self.loss_norm) for e in self.projections(batch.views)]
        invariance, variance, covariance = self.weights
        agreement = (z[0] - z[1]).square().mean()
        spread = (variance_term(z[0]) + variance_term(z[1])) / 2
        redundancy = covariance_term(z[0]) + covariance_term(z[1])
        return Outcome(invariance * agreement + variance * spread + covariance * redundancy, None)


build = VICReg
