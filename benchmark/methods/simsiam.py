"""SimSiam: simple siamese networks (Chen & He 2021, 2011.10566)."""

from __future__ import annotations

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import negative_cosine

COMPONENT = {
    "name": "simsiam",
    "version": 1,
    "title": "SimSiam",
    "views": 2,
    "sections": ["backbone", "projector", "predictor"],
    "teacher": False,
    "options": {
        "output": "int >= 1",
        "bottleneck": "int >= 1",
        "stop_gradient": "bool",
        "projector_layers": "int >= 1",
    },
    "defaults": {"projector_layers": 3},
    "example": {"output": 16, "bottleneck": 8, "stop_gradient": True},
    "per_sample_loss": True,
}


class SimSiam(Method):
    """Each view predicts the other's embedding, which takes no gradient."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        output: int,
        bottleneck: int,
        stop_gradient: bool,
        projector_layers: int,
    ) -> None:
        super().__init__(backbone, context)
        # The last norm has no scale and shift, as in the authors' code.
        widths = [backbone.width, *[output] * projector_layers]
        self.projector = mlp(widths, context.norms["projector"], last="norm without affine")
        self.predictor = mlp([output, bottleneck, output], context.norms["predictor"])
        self.stop_gradient = stop_gradient

    def forward(self, batch: Batch) -> Outcome:
        """D(p₁, sg(z₂)) / 2 + D(p₂, sg(z₁)) / 2 with D the negative cosine (equations 1 to 4)."""
        z = self.projections(batch.views)
        first, second = self.each_view(self.predictor, z)
        if self.stop_gradient:
            z = [embedding.detach() for embedding in z]
        return Outcome(negative_cosine(first, z[1]) / 2 + negative_cosine(second, z[0]) / 2, None)


build = SimSiam
