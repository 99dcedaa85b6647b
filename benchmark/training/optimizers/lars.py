"""LARS: layer-wise adaptive rate scaling (You et al. 2017, 1708.03888)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm.optim
import torch
from torch import Tensor

from benchmark.training.adaptation import Layerwise

COMPONENT = {
    "name": "lars",
    "version": 1,
    # Without momentum, timm has no Nesterov step.
    "options": {
        "adapt": ["weights", "all"],
        "momentum": "0 < float < 1",
        "nesterov": "bool",
        "trust_coefficient": "float > 0",
        "eps": "float >= 0",
        "trust_clip": "bool",
    },
    # The paper's, which SimCLR's code has too (2002.05709); neither has an epsilon. What is adapted has
    # no default: the paper adapts every layer, SimCLR leaves out biases and norms.
    "defaults": {
        "momentum": 0.9,
        "nesterov": False,
        "trust_coefficient": 0.001,
        "eps": 0.0,
        "trust_clip": False,
    },
    "example": {"adapt": "weights"},
}


class Lars(Layerwise, timm.optim.Lars):
    """timm's LARS with a declared choice of what is adapted."""

    def decay(self, params: Sequence[Tensor], rate: float, weight_decay: float) -> None:
        """Adds β w to the gradients, as SGD does."""
        for parameter in params:
            if parameter.grad is not None:
                parameter.grad.add_(parameter, alpha=weight_decay)


def build(
    groups: list[dict[str, Any]],
    rate: float,
    adapt: str,
    momentum: float,
    nesterov: bool,
    trust_coefficient: float,
    eps: float,
    trust_clip: bool,
) -> torch.optim.Optimizer:
    """SGD whose decayed gradient is scaled by λ = η ‖w‖ / (‖∇L‖ + β ‖w‖ + ε) (algorithm 1).

    β is the weight decay and η the trust coefficient. λ is 1 where `adapt` leaves a parameter out, and
    where ‖w‖ or ‖∇L‖ is 0. As in torch's SGD, the rate multiplies the momentum, v ← m v + λ (∇L + β w)
    and w ← w − γ v. In the paper the rate is inside, which is the same while it is constant.
    `trust_clip` replaces λ by min(λ / γ, 1), so that λ bounds the step from above (LARC, NVIDIA's apex).
    """
    optimizer = Lars(
        groups, rate, momentum=momentum, nesterov=nesterov, trust_coeff=trust_coefficient, eps=eps,
        trust_clip=trust_clip,
    )  # fmt: skip
    optimizer.adapt = adapt
    return optimizer
