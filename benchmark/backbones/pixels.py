"""The pixels themselves as the embedding, as a control."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from benchmark.backbones.base import Backbone, ImageShape
from benchmark.norms.factory import SectionNorms

COMPONENT = {
    "name": "pixels",
    "version": 1,
    "options": {"side": "int >= 0"},
    "defaults": {"side": 0},
    "normalized": False,
}


def build(shape: ImageShape, norms: SectionNorms, side: int) -> Pixels:
    """The identity on images of the given shape, or their means over a grid of `side` × `side`.

    All pixels of large images, 150,000 numbers at 224×224, are more than neighbours and probes can take.
    """
    if side:
        shape = ImageShape(shape.channels, side, side)
    return Pixels(shape)


class Pixels(Backbone):
    """Standardised pixels as the embedding."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        self.size = shape.height, shape.width
        self.width = shape.channels * shape.height * shape.width

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """`pooled`: the flattened image."""
        if images.shape[2:] != self.size:
            images = F.adaptive_avg_pool2d(images, self.size)
        return {"pooled": images.flatten(1)}
