"""The momentum encoder: a copy of the student that follows it slowly and takes no gradient."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """An exponential moving average of a student's parameters (MoCo, 1911.05722, equation 2).

    `policy` says where its norms' statistics come from: `batch`, the current batch of keys (and it
    keeps running statistics of its own); `eman`, the moving average of the student's running
    statistics, in evaluation mode (EMAN, 2101.08482, equation 3).
    """

    def __init__(self, student: nn.Module, momentum: float, policy: str) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.momentum = momentum
        self.policy = policy

    def train(self, mode: bool = True) -> Teacher:
        """Training mode, but for the network of an `eman` teacher, which stays in evaluation mode."""
        super().train(mode)
        self.network.train(mode and self.policy == "batch")
        return self

    def load(self, student: nn.Module) -> None:
        """Starts the teacher at the student's values."""
        self.network.load_state_dict(student.state_dict())

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """θ ← m θ + (1 − m) θ_student, and the same for running statistics under `eman`."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if self.policy == "eman":
            mine += [b for b in self.network.buffers() if b.is_floating_point()]
            theirs += [b for b in student.buffers() if b.is_floating_point()]
        torch._foreach_lerp_(mine, theirs, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The network's output, without gradient."""
        output: Tensor = self.network(x)
        return output
