"""Modes of a finished network in which diagnostics measure it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmark.evaluation.features import preserve_state
from benchmark.methods.base import Method
from benchmark.norms.bases import batch_norms
from benchmark.norms.history import HistoryBatchNorm


def training_mode(method: Method) -> None:
    """Puts a method's networks into the mode of the end of their training.

    An `eman` teacher is in evaluation mode. A norm with a history normalizes with its stored statistics:
    under `running` it always does, under `momentum` when the weight of the current batch has become 0.
    """
    method.train()
    for module in method.modules():
        if isinstance(module, HistoryBatchNorm):
            module.eval()


@contextlib.contextmanager
def population_statistics(network: nn.Module) -> Iterator[None]:
    """Evaluation mode: norms with running statistics normalize with these."""
    with preserve_state(network):
        network.eval()
        yield


@contextlib.contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Norms with running statistics normalize with the statistics of the batch alone.

    Without momentum, as in `evaluation.features.reestimate`, every such norm uses the batch.
    """
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    with preserve_state(network):
        network.train()
        for norm in norms:
            norm.momentum = None
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def grouping(network: nn.Module, batch: int) -> Tensor | None:
    """The BN group (batch,) of each sample in the norm with most groups, None with fewer than two."""
    norms = [norm for norm in batch_norms(network) if getattr(norm, "groups", 1) > 1]
    if not norms:
        return None
    norm = max(norms, key=lambda norm: int(norm.groups))
    place = torch.arange(batch)
    if getattr(norm, "assignment", "contiguous") == "strided":
        return place % norm.groups
    return place * norm.groups // batch
