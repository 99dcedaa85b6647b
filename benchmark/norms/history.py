"""BN that normalizes with stored statistics: two policies of a teacher's norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.core import ranks
from benchmark.core.errors import UserError
from benchmark.norms.across import moments, plain

POLICIES = ("running", "momentum")


class HistoryBatchNorm(_BatchNorm):
    """BN whose training mode normalizes with stored statistics, without gradient.

    `running`: with the running statistics, which it updates with the batch afterwards. `momentum`: with
    α · history + (1 − α) · batch, which becomes the history (Momentum² Teacher, 2101.07525,
    equation 5); α is `history`, which the teacher moves from 0 to 1 during training. In evaluation mode,
    and while its running statistics are re-estimated (`momentum` None), it is plain BN.
    """

    across_ranks = True

    def __init__(self, layer: _BatchNorm, policy: str) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine)
        self.load_state_dict(layer.state_dict())
        self.requires_grad_(False)
        self.policy = policy
        self.history = 0.0

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts vectors and maps."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        if not self.training:
            return super().forward(x)
        if self.momentum is None:
            return plain(self, x)
        return self._trained(x, self.momentum)

    @torch.no_grad()
    def _trained(self, x: Tensor, momentum: float) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if mean is None or variance is None:
            raise ValueError("a BN without running statistics has no history")
        batch_mean, batch_variance = moments(x.to(mean))
        if self.policy == "momentum":
            mean.lerp_(batch_mean, 1 - self.history)
            variance.lerp_(batch_variance, 1 - self.history)
            return F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0, self.eps)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0, self.eps)
        count = ranks.size() * x.numel() / x.shape[1]
        mean.lerp_(batch_mean, momentum)
        variance.lerp_(batch_variance * (count / max(count - 1, 1)), momentum)
        return y


def give_history(network: nn.Module, policy: str) -> list[HistoryBatchNorm]:
    """Replaces every BN of `network` in place; raises UserError for other norms of the batch."""
    made = []
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            # Not a subclass, which may do more.
            if isinstance(module, _BatchNorm) and type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
                layer = HistoryBatchNorm(module, policy)
                setattr(parent, name, layer)
                made.append(layer)
            elif isinstance(getattr(module, "running_mean", None), Tensor):
                raise UserError(
                    f"teacher statistics {policy!r} need bn, not a norm of class "
                    f"{type(module).__name__}"
                )
    return made
