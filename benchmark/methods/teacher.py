"""The momentum encoder: a copy of the student that follows it slowly and takes no gradient."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from benchmark.methods.base import Batch, Policy
from benchmark.norms.history import POLICIES, give_history


class Teacher(nn.Module):
    """An exponential moving average of a student's parameters (MoCo, 1911.05722, equation 2)."""

    def __init__(self, student: nn.Module, policy: Policy) -> None:
        super().__init__()
        self.network = copy.deepcopy(student)
        self.policy = policy
        historic = policy.statistics in POLICIES
        self.historic = give_history(self.network, policy.statistics) if historic else []
        self.network.requires_grad_(False)

    def train(self, mode: bool = True) -> Teacher:
        """Training mode, but for the network of an `eman` teacher, which stays in evaluation mode."""
        super().train(mode)
        self.network.train(mode and self.policy.statistics != "eman")
        return self

    def load(self, student: nn.Module) -> None:
        """Starts the teacher at the student's values."""
        self.network.load_state_dict(student.state_dict())

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """θ ← m θ + (1 − m) θ_student, and the same for running statistics under `eman`."""
        mine: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        if self.policy.statistics == "eman":
            mine += [b for b in self.network.buffers() if b.is_floating_point()]
            theirs += [b for b in student.buffers() if b.is_floating_point()]
        torch._foreach_lerp_(mine, theirs, 1 - momentum)

    @torch.no_grad()
    def forward(self, x: Tensor, batch: Batch, number: int) -> Tensor:
        """The network's output for view `number` of a batch, (N, …) → (N, D), without gradient."""
        for layer in self.historic:
            layer.history = rising(0.0, 1.0, batch.progress)
        if not self.policy.shuffle:
            output: Tensor = self.network(x)
            return output
        generator = batch.draw.generator(f"shuffle {number}")
        order = torch.randperm(len(x), generator=generator).to(x.device)
        shuffled: Tensor = self.network(x[order])
        return shuffled[order.argsort()]


def rising(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along a half cosine (BYOL, 2006.07733, §3.2), at progress 0..1."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2
