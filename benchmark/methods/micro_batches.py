"""A step in micro-batches whose norms are those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from benchmark.norms.bases import batch_norms

Result = TypeVar("Result")


class Part(NamedTuple):
    """The place of a micro-batch, or of one process's images, in its step."""

    rows: Tensor
    """Its images (n,) by their number among those of the step."""
    size: int
    """The number of images of the step."""
    targets: Sequence[Tensor] | None = None
    """What `Method.targets` returned for the step, if it was computed before."""
    last: bool = True


@dataclass(frozen=True)
class MicroBatches:
    """How a batch is divided into equal parts that have whole groups of every norm."""

    count: int
    strided: bool
    """Sample i of n is in part i mod `count`, otherwise in part ⌊i · count / n⌋: as norms assign their
    samples to groups."""

    def rows(self, n: int) -> list[Tensor]:
        """The samples of each part (n / count,) of a batch of n, in ascending order."""
        samples = torch.arange(n)
        if self.strided:
            return [samples[part :: self.count] for part in range(self.count)]
        return list(samples.chunk(self.count))

    def each(self, network: nn.Module, run: Callable[[int], Result]) -> list[Result]:
        """`run` for the number of each part, with the norms of `network` as in one pass of the batch.

        A norm has only the groups of the part meanwhile. Each part starts from the same running
        statistics, and the mean over the parts stays: what a norm records is linear in the statistics
        of its groups, whose mean it takes.
        """
        norms = batch_norms(network)
        groups = [(norm, norm.groups) for norm in norms if hasattr(norm, "groups")]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        before, mean = ([buffer.clone() for buffer in buffers] for _ in range(2))
        results = []
        try:
            for norm, whole in groups:
                norm.groups = whole // self.count
            for number in range(self.count):
                _copy(before, buffers)
                results.append(run(number))
                for average, buffer in zip(mean, buffers, strict=True):
                    if average.is_floating_point():
                        average.lerp_(buffer, 1 / (number + 1))
                    else:  # the count of passes
                        average.copy_(buffer)
        finally:
            for norm, whole in groups:
                norm.groups = whole
        _copy(mean, buffers)
        return results

    def through(self, network: nn.Module, x: Tensor) -> Tensor:
        """The network's output (N, D) of a batch (N, …), a part at a time."""
        rows = self.rows(len(x))
        outputs = self.each(network, lambda number: network(x[rows[number].to(x.device)]))
        return torch.cat(outputs)[torch.cat(rows).argsort().to(x.device)]


def _copy(values: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
