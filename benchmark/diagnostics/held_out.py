"""Held-out images as a training would show them: augmented views, in batches drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmark.core.randomness import keyed
from benchmark.data.augment import view


@dataclass(frozen=True)
class HeldOut:
    """Images that no training has seen. The same seed gives the same views and batches."""

    images: Tensor
    """(N, C, H, W) uint8."""
    specs: Sequence[Mapping[str, Any]]
    """Of the views that the cell is trained on, at least one."""
    standardise: Callable[[Tensor], Tensor]
    seed: int

    def views(self, start: int, count: int, number: int) -> Tensor:
        """View `number` of `count` images, from place `start` of an order that is drawn once.

        Standardised, (count, C, H, W); a cell with two kinds of views gives them by turns.
        """
        order = torch.randperm(len(self.images), generator=keyed(self.seed, "diagnostics", "order"))
        chosen = order[start : start + count].to(self.images.device)
        generator = keyed(self.seed, "diagnostics", "view", start, number)
        spec = dict(self.specs[number % len(self.specs)])
        return self.standardise(view(self.images[chosen].float() / 255, spec, generator))


def batches(redraws: int, count: int, size: int, seed: int) -> Tensor:
    """`count · size` images dealt into `count` batches, `redraws` times: indices (M, count, size)."""
    orders = [
        torch.randperm(count * size, generator=keyed(seed, "diagnostics", "batches", redraw))
        for redraw in range(redraws)
    ]
    return torch.stack(orders).view(redraws, count, size)


def by_image(call: Callable[[Tensor], Mapping[str, Tensor]], dealt: Tensor) -> dict[str, Tensor]:
    """What `call` gives for the batches of `batches`, put back in the order of the images.

    `call` takes the indices (B,) of a batch and gives values (B, …) by name; these come back as
    (M, N, …), where the values [m, i] are those of image i among its batch-mates of redraw m.
    """
    found: dict[str, Tensor] = {}
    for redraw, indices in enumerate(dealt):
        for index in indices:
            for name, values in call(index).items():
                if name not in found:
                    shape = (len(dealt), indices.numel(), *values.shape[1:])
                    found[name] = values.new_empty(shape)
                found[name][redraw, index] = values
    return found
