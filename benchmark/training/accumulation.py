"""A training step as several forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.micro_batches import MicroBatches, Part


def division(context: Context, count: int) -> MicroBatches:
    """`count` micro-batches that have whole groups of the cell's norms, as `planning.sizes` checked."""
    grouped = [norm for norm in context.norms.values() if norm.facts.get("sample_groups")]
    return MicroBatches(count, any(norm.options["assignment"] == "strided" for norm in grouped))


def accumulate(
    method: Method,
    batch: Batch,
    micro_batches: MicroBatches,
    precision: Callable[[], AbstractContextManager[object]],
) -> Outcome:
    """Adds the gradients of a step, one micro-batch at a time; returns its loss and pretext accuracy.

    Both are means over the micro-batches, detached. `precision` is the context of each forward pass.
    """
    rows = micro_batches.rows(batch.size, batch.views[0].device)
    with precision():
        targets = method.targets(batch._replace(micro_batches=micro_batches))

    def run(number: int) -> Outcome:
        part = Part(rows[number], batch.size, targets, number == len(rows) - 1)
        with precision():
            outcome = method(batch.take(part))
        (outcome.loss / len(rows)).backward()
        return outcome._replace(loss=outcome.loss.detach())

    outcomes = micro_batches.each(method, run)
    pretext = [outcome.pretext for outcome in outcomes if outcome.pretext is not None]
    return Outcome(
        torch.stack([outcome.loss for outcome in outcomes]).mean(),
        torch.stack(pretext).mean() if pretext else None,
    )
