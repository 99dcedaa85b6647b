"""Held-out images as a training run would get them: augmented views in random batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.core.randomness import keyed
from benchmark.data.augment import pixels_for, view
from benchmark.data.storage import Images


@dataclass(frozen=True)
class HeldOut:
    """Images that were not trained on. The same seed gives the same views and batches."""

    images: Images | Tensor
    """(N, C, H, W) uint8."""
    specs: Sequence[Mapping[str, Any]]
    """The cell's views without local ones, at least one."""
    standardise: Callable[[Tensor], Tensor]
    seed: int

    def views(self, start: int, count: int, number: int) -> Tensor:
        """View `number` of `count` images from place `start` of a fixed random order.

        Standardised, (count, C, H, W). A cell's kinds of views alternate by `number`.
        """
        order = torch.randperm(len(self.images), generator=keyed(self.seed, "diagnostics", "order"))
        chosen = order[start : start + count].to(self.images.device)
        generator = keyed(self.seed, "diagnostics", "view", start, number)
        spec = dict(self.specs[number % len(self.specs)])
        pixels = pixels_for(self.specs, self.images[chosen])
        return self.standardise(view(pixels, spec, generator))


def batches(redraws: int, count: int, size: int, seed: int) -> Tensor:
    """`redraws` random assignments of `count · size` images to batches: indices (M, count, size)."""
    orders = [
        torch.randperm(count * size, generator=keyed(seed, "diagnostics", "batches", redraw))
        for redraw in range(redraws)
    ]
    return torch.stack(orders).view(redraws, count, size)


def by_image(call: Callable[[Tensor], Mapping[str, Tensor]], dealt: Tensor) -> dict[str, Tensor]:
    """The values of `call` for the batches of `batches`, in the order of the images.

    `call` takes the indices (B,) of a batch and returns values (B, …) by name. The result is (M, N, …):
    [m, i] are the values of image i among its batch-mates of redraw m.
    """
    results: dict[str, Tensor] = {}
    for redraw, indices in enumerate(dealt):
        for index in indices:
            for name, values in call(index).items():
                if name not in results:
                    shape = (len(dealt), indices.numel(), *values.shape[1:])
                    results[name] = values.new_empty(shape)
                results[name][redraw, index] = values
    return results
