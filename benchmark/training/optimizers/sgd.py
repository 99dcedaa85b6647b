"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from typing import Any

import torch

COMPONENT = {
    "name": "sgd",
    "version": 1,
    "options": {"momentum": "0 <= float < 1", "nesterov": "bool"},
    "example": {"momentum": 0.0, "nesterov": False},
}


def build(
    groups: list[dict[str, Any]], rate: float, momentum: float, nesterov: bool
) -> torch.optim.Optimizer:
    """torch's SGD over the given parameter groups."""
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, fused=True)
    if momentum:
        # torch makes the buffers at the first step, but not for a parameter that is frozen then. A
        # buffer of zeros gives the same first step.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
