"""LAMB: layer-wise adaptive moments (You et al. 2020, 1904.00962)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import timm.optim
import torch
from torch import Tensor

from benchmark.training.adaptation import Layerwise

COMPONENT = {
    "name": "lamb",
    "version": 1,
    "options": {
        "adapt": ["weights", "all"],
        "beta1": "0 <= float < 1",
        "beta2": "0 <= float < 1",
        "eps": "float > 0",
    },
    # The authors' values. What is adapted has no default: algorithm 2 adapts every layer, the code for
    # BERT leaves out biases and norms.
    "defaults": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6},
    "example": {"adapt": "weights"},
}


class Lamb(Layerwise, timm.optim.Lamb):
    """timm's LAMB with a declared choice of what is adapted, and steps counted by parameter.

    timm counts the steps of a group, outside the state that a checkpoint holds. So a resumed run would
    start its bias correction again, and a parameter that is frozen at first would have another's.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def parts(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See `Layerwise.parts`, further divided by the steps that parameters have had."""
        for part in super().parts(group):
            by_steps: dict[int, list[Tensor]] = {}
            for parameter in part["params"]:
                steps = self.state[parameter]["step"]
                by_steps.setdefault(int(steps), []).append(parameter)
                steps += 1
            for number, params in by_steps.items():
                yield {**part, "params": params, "step": torch.tensor(float(number))}

    def decay(self, params: Sequence[Tensor], rate: float, weight_decay: float) -> None:
        """w ← (1 − γ λ) w, as AdamW does: the rest of the step does not depend on w."""
        for parameter in params:
            parameter.mul_(1 - rate * weight_decay)


def build(
    groups: list[dict[str, Any]], rate: float, adapt: str, beta1: float, beta2: float, eps: float
) -> torch.optim.Optimizer:
    """w ← w − γ ‖w‖ / ‖r + λ w‖ · (r + λ w), with Adam's bias-corrected r (algorithm 2).

    γ is the rate and λ the weight decay. The ratio is 1 where `adapt` leaves a parameter out (which is
    AdamW), and where one of its norms is 0. φ is the identity. Gradients are not clipped here: that is
    the recipe's `clip_grad_norm`.
    """
    optimizer = Lamb(groups, lr=rate, betas=(beta1, beta2), eps=eps, max_grad_norm=None)
    optimizer.adapt = adapt
    return optimizer
