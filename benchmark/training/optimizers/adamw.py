"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, 1711.05101)."""

from __future__ import annotations

from typing import Any

import torch

COMPONENT = {
    "name": "adamw",
    "version": 1,
    "options": {"beta1": "0 <= float < 1", "beta2": "0 <= float < 1"},
    "example": {"beta1": 0.9, "beta2": 0.999},
}


def build(
    groups: list[dict[str, Any]], rate: float, beta1: float, beta2: float
) -> torch.optim.Optimizer:
    """torch's AdamW over the given parameter groups."""
    return torch.optim.AdamW(groups, lr=rate, betas=(beta1, beta2), fused=True)
