"""Images of another data set in the size and with the channels that a network takes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from benchmark.data.augment import luma


def fitted(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images (N, C, H, W), float in 0..1, as (N, c, h, w) of `shape`.

    Grey is repeated for three channels, and colour is made grey by its luma. The image is resampled
    until it just covers the new size (bilinear, antialiased), then its centre is cropped.
    """
    channels, height, width = shape
    if channels == 1:
        images = luma(images)
    if images.shape[1] == 1:
        images = images.expand(-1, channels, -1, -1)
    scale = max(height / images.shape[2], width / images.shape[3])
    sides = [round(side * scale) for side in images.shape[2:]]
    if sides != list(images.shape[2:]):
        images = F.interpolate(images, sides, mode="bilinear", antialias=True)
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    return images[:, :, top : top + height, left : left + width]
