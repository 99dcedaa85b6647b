"""Networks in training mode, looked at without a trace in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmark.evaluation.features import batch_norms, preserve_state
from benchmark.methods.base import Method
from benchmark.norms.history import HistoryBatchNorm


def training_mode(method: Method) -> None:
    """Puts a method into the mode that its networks have at the end of a training.

    That of an `eman` teacher is evaluation mode. A norm with a history gets its stored statistics:
    under `running` it normalizes with these in any case, and under `momentum` at the end, where the
    current batch has no weight any more.
    """
    method.train()
    for module in method.modules():
        if isinstance(module, HistoryBatchNorm):
            module.eval()


@contextlib.contextmanager
def population_statistics(network: nn.Module) -> Iterator[None]:
    """Norms with running statistics normalize with these: evaluation mode."""
    with preserve_state(network):
        network.eval()
        yield


@contextlib.contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Norms with running statistics normalize with those of the batch alone, whatever they do else.

    A norm without momentum is one whose statistics are being estimated anew: it then has nothing
    but the batch (see `evaluation.features.reestimate`).
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
    """The BN group (batch,) of each sample of a batch, None with fewer than two groups.

    Of several norms, that with the most groups.
    """
    norms = [norm for norm in batch_norms(network) if getattr(norm, "groups", 1) > 1]
    if not norms:
        return None
    norm = max(norms, key=lambda norm: int(norm.groups))
    place = torch.arange(batch)
    if getattr(norm, "assignment", "contiguous") == "strided":
        return place % norm.groups
    return place * norm.groups // batch
