"""Supervised training of the same backbone on the same views: the upper control."""

from __future__ import annotations

from torch import nn

from benchmark.backbones.base import Backbone
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.losses import classification

COMPONENT = {
    "name": "supervised",
    "version": 1,
    "title": "supervised",
    "views": 1,
    "sections": ["backbone"],
    "teacher": False,
    "options": {},
    "per_sample_loss": True,
    "labels": True,
}


class Supervised(Method):
    """A linear classifier on the embedding, trained with the backbone."""

    def __init__(self, backbone: Backbone, context: Context) -> None:
        super().__init__(backbone, context)
        self.classifier = nn.Linear(backbone.width, context.classes)

    def forward(self, batch: Batch) -> Outcome:
        """Cross-entropy against the labels."""
        (view,) = batch.views
        return Outcome(*classification(self.classifier(self.backbone(view)), batch.labels))


build = Supervised
