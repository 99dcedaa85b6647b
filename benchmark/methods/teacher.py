"""The momentum encoder: a copy of the student that follows it slowly and takes no gradient."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from benchmark.core import ranks
from benchmark.methods.base import Batch, Method, Policy
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
        """Sets the mode; the network of an `eman` teacher stays in evaluation mode."""
        super().train(mode)
        self.network.train(mode and self.policy.statistics != "eman")
        return self

    def load(self, student: nn.Module) -> None:
        """Copies the student's parameters and buffers."""
        self.network.load_state_dict(student.state_dict())

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """θ ← m θ + (1 − m) θ_student, and the same for running statistics under `eman`."""

        def averaged(network: nn.Module) -> list[Tensor]:
            statistics = network.buffers() if self.policy.statistics == "eman" else ()
            return [*network.parameters(), *(b for b in statistics if b.is_floating_point())]

        torch._foreach_lerp_(averaged(self.network), averaged(student), 1 - momentum)

    @torch.no_grad()
    def forward(self, x: Tensor, batch: Batch, number: int) -> Tensor:
        """The network's output for view `number` of a batch, (N, …) → (N, D), without gradient."""
        for layer in self.historic:
            layer.history = rising(0.0, 1.0, batch.progress)
        if not self.policy.shuffle:
            return self._passed(x, batch)
        generator = batch.draw.generator(f"shuffle {number}")
        order = torch.randperm(len(x) * ranks.size(), generator=generator).to(x.device)
        shuffled = ranks.gather(x)[order]
        passed = ranks.gather(self._passed(ranks.own(shuffled), batch))
        return ranks.own(passed[order.argsort()])

    def _passed(self, x: Tensor, batch: Batch) -> Tensor:
        return (
            batch.micro_batches.through(self.network, x) if batch.micro_batches else self.network(x)
        )


class TeacherMethod(Method):
    """A method with a momentum encoder, which starts as a copy of `student` and follows it.

    A subclass makes `projector`, then `teacher`, and sets `momentum`.
    """

    teacher: Teacher
    momentum: float
    """The weight that the teacher keeps at the first step."""
    momentum_end: float = 1.0
    """The weight to which it moves during the training."""

    def student(self) -> nn.Sequential:
        """The network that the teacher follows: backbone and projector."""
        return nn.Sequential(self.backbone, self.projector)

    def start(self) -> None:
        """The teacher starts at the student's initial weights."""
        self.teacher.load(self.student())

    def targets(self, batch: Batch) -> list[Tensor]:
        """The teacher's output of each view."""
        return self.each_target(self.teacher, batch)

    def after_step(self, progress: float) -> None:
        """The teacher follows the student, by default more slowly at every step (BYOL, §3.2)."""
        momentum = rising(self.momentum, self.momentum_end, progress)
        self.teacher.follow(self.student(), momentum)


def rising(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along a half cosine (BYOL, 2006.07733, §3.2), at progress 0..1."""
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2
