"""Randomness without state: every draw is keyed by the seed, its purpose and the step.

So data order, views and initial weights depend on the seed alone, not on method, scheme or device
(paired seeds), and a resumed run gives the same bits without a stored generator state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch


def keyed(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, e.g. `keyed(0, "order", epoch)`."""
    text = "/".join(map(str, (seed, *purpose)))
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(key)


@dataclass(frozen=True)
class Draw:
    """The randomness of one training step."""

    seed: int
    step: int

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose in this step, the same at each call."""
        return keyed(self.seed, purpose, self.step)
