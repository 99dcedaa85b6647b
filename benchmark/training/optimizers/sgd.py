"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

import torch

COMPONENT = {
    "name": "sgd",
    "version": 1,
    "options": {"momentum": "0 <= float < 1", "nesterov": "bool"},
}


def build(
    groups: list[dict[str, Any]], rate: float, momentum: float, nesterov: bool
) -> torch.optim.Optimizer:
    """torch's SGD over the given parameter groups."""
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=True)
