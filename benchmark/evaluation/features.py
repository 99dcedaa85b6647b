"""Embeddings of whole splits, and re-estimated BN statistics."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone

CHUNK = 500
"""Images in one forward pass in evaluation mode; the last pass of a split may be smaller."""


def in_parts(
    images: Tensor, standardise: Callable[[Tensor], Tensor], size: int = CHUNK
) -> Iterator[Tensor]:
    """Standardised float images of uint8 ones (N, C, H, W), `size` at a time."""
    return (standardise(part.float() / 255) for part in images.split(size))


@contextlib.contextmanager
def preserve_state(network: nn.Module) -> Iterator[None]:
    """Afterwards the network's buffers and modes are what they were before.

    Each forward pass in training mode stands in a block of its own, so that running statistics are not
    updated from one to the next. A gradient is taken inside the block.
    """
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@torch.no_grad()
def embed(
    backbone: Backbone, images: Tensor, standardise: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Every readout (N, width), float32, of uint8 images (N, C, H, W), in evaluation mode."""
    backbone.eval()
    parts = [backbone.features(part) for part in in_parts(images, standardise)]
    return {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}


def batch_norms(network: nn.Module) -> list[Any]:
    """The modules that keep running statistics of a batch."""
    return [m for m in network.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]


@torch.no_grad()
def reestimate(
    backbone: Backbone,
    images: Tensor,
    batch: int,
    standardise: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, int], object] | None = None,
) -> bool:
    """Replaces running statistics by their mean over the training images, in batches of `batch`.

    Short training runs, small groups and untrained networks have poor running statistics, which would
    look like an effect of the norm (precise-BN, Wu & Johnson 2021, 2105.07576, §3). `encode` makes the
    forward pass of a batch and is told the batch's number; by default it is the backbone's of whole
    images (see `Method.encode`). Returns whether there was anything to estimate.
    """
    norms = batch_norms(backbone)
    if not norms:
        return False
    batch = min(batch, len(images))
    # A norm over parts of the batch takes the largest batch that its parts divide.
    groups = math.lcm(*(int(getattr(norm, "groups", 1)) for norm in norms))
    batch = max(batch - batch % groups, groups)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
    backbone.train()
    try:
        for number, part in enumerate(in_parts(images, standardise, batch)):
            if len(part) < batch:
                break
            if encode is None:
                backbone.features(part)
            else:
                encode(part, number)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    backbone.eval()
    return True
