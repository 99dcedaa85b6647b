"""Which parameters a layer-wise optimizer adapts, independent of what weight decay applies to."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Layerwise(torch.optim.Optimizer):
    """The base class before timm's LARS or LAMB, in which `adapt` alone says what is adapted.

    It is `all`, or `weights`: parameters of two or more dimensions, as for weight decay
    (`network.parameter_groups`). timm always adapts a parameter that has weight decay, and with
    `always_adapt` every other one too.
    """

    adapt: str

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update, with timm's groups divided by what is adapted."""
        whole = self.param_groups
        self.param_groups = [part for group in whole for part in self.parts(group)]
        try:
            return super().step(closure)
        finally:
            self.param_groups = whole

    def parts(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A group's parameters with a gradient, in groups that timm adapts and that it does not."""
        for adapted in (True, False):
            params = [
                p
                for p in group["params"]
                if p.grad is not None and adapted == (self.adapt == "all" or p.ndim >= 2)
            ]
            part = {**group, "params": params, "always_adapt": adapted}
            if not adapted and group["weight_decay"]:
                self.decay(params, group["lr"], group["weight_decay"])
                part["weight_decay"] = 0.0
            yield part

    @abstractmethod
    def decay(self, params: Sequence[Tensor], rate: float, weight_decay: float) -> None:
        """The weight decay of parameters that are not adapted, before timm's step without it."""
