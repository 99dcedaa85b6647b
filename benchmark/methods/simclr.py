"""SimCLR (Chen et al. 2020, 2002.05709)."""

from __future__ import annotations

from typing import Literal

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.heads import mlp
from benchmark.methods.losses import nt_xent

COMPONENT = {
    "name": "simclr",
    "version": 2,
    "title": "SimCLR",
    "views": 2,
    "sections": ["backbone", "projector"],
    "teacher": False,
    "view_batching": "joint",
    "options": {
        "temperature": "float > 0",
        "hidden": "int >= 1",
        "output": "int >= 1",
        "output_norm": "bool",
        "projector_layers": "int >= 1",
    },
    "defaults": {"projector_layers": 2},
    "example": {"temperature": 0.2, "hidden": 16, "output": 8, "output_norm": False},
}


class SimCLR(Method):
    """Two views of an image attract, all other images of the batch repel."""

    def __init__(
        self,
        backbone: Backbone,
        context: Context,
        temperature: float,
        hidden: int,
        output: int,
        output_norm: bool,
        projector_layers: int,
    ) -> None:
        super().__init__(backbone, context)
        # The authors' code ends the head in a norm without shift, solo-learn's in a bias.
        last: Literal["bias", "norm without shift"] = (
            "norm without shift" if output_norm else "bias"
        )
        widths = [backbone.width, *[hidden] * (projector_layers - 1), output]
        self.projector = mlp(widths, context.norms["projector"], last=last)
        self.temperature = temperature

    def forward(self, batch: Batch) -> Outcome:
        """z = g(f(x)) for both views; NT-Xent between them."""
        first, second = self.projections(batch.views)
        return Outcome(*nt_xent(first, second, self.temperature))


build = SimCLR
