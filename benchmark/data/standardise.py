"""Images of zero mean and unit deviation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.data.manifest import Manifest


def standardiser(
    manifest: Manifest, device: torch.device, size: int | None = None
) -> Callable[[Tensor], Tensor]:
    """Maps images in 0..1 to zero mean and unit deviation by the statistics of the data set.

    A channel that is constant there is divided by 1: its deviation is 0. Images larger than `size`,
    which views are not, are first cropped to their centre.
    """
    mean = torch.tensor(manifest.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor([value or 1.0 for value in manifest.std], device=device).view(1, -1, 1, 1)

    def standardise(images: Tensor) -> Tensor:
        if size is not None:
            images = centre_crop(images, size)
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)

    return standardise


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The central square (…, size, size) of images; smaller images as they are.

    As torchvision's, with half a pixel rounded to the even place.
    """
    height, width = images.shape[-2:]
    top, left = (round(max(0, side - size) / 2) for side in (height, width))
    return images[..., top : top + size, left : left + size]
