"""Images of zero mean and unit deviation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.data.manifest import Manifest


def standardiser(manifest: Manifest, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Maps images in 0..1 to zero mean and unit deviation by the training split's statistics.

    A channel that is constant in the training split is divided by 1: its deviation is 0.
    """
    mean = torch.tensor(manifest.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor([value or 1.0 for value in manifest.std], device=device).view(1, -1, 1, 1)

    def standardise(images: Tensor) -> Tensor:
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)

    return standardise
