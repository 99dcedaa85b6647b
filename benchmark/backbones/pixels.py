"""The pixels themselves as the embedding, as a control."""

from __future__ import annotations

from torch import Tensor

from benchmark.backbones.base import Backbone, ImageShape
from benchmark.norms.factory import SectionNorms

COMPONENT = {"name": "pixels", "version": 1, "options": {}, "normalized": False}


def build(shape: ImageShape, norms: SectionNorms) -> Pixels:
    """The identity on images of the given shape."""
    return Pixels(shape.channels * shape.height * shape.width)


class Pixels(Backbone):
    """Standardised pixels as the embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`: the flattened image."""
        return {"pooled": images.flatten(1)}
