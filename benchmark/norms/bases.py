"""Base classes that norms share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def widened(x: Tensor) -> Tensor:
    """The tensor in float32 if it is of half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def batch_norms(network: nn.Module) -> list[Any]:
    """The modules that keep running statistics of a batch."""
    return [m for m in network.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]


class RunningNorm(_NormBase):
    """A norm with BN's parameters and running statistics, which in evaluation mode is plain BN."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def evaluate(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …) with the running statistics."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0, self.eps
        )

    def counted(self) -> float:
        """Counts a batch and returns its weight in the running statistics.

        This is `momentum`, or without one the weight of a cumulative mean.
        """
        self.num_batches_tracked.add_(1)
        return 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum


class KeepsPrecision(nn.Module):
    """The base class before a torch norm whose output shall have the type of the input.

    Under bfloat16 autocast torch's LN and GN return float32 and BN returns bfloat16, so that
    activations and the residual stream would have another precision from norm to norm. Statistics are
    computed in float32 either way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The next base's output in the type of the input."""
        return super().forward(x).to(x.dtype)


class ByPosition(nn.Module):
    """The base class before a norm over the last dimension that normalizes each position of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
