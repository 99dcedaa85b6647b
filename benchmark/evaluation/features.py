"""Embeddings of whole splits, and re-estimated BN statistics."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.core import ranks
from benchmark.data.storage import Images, ahead
from benchmark.norms.bases import batch_norms

CHUNK = 500
"""Most images in one forward pass in evaluation mode; the last pass of a split may be smaller."""

PIXELS = 2**22
"""Most pixels of one forward pass: 64 images of 256×256. Images of up to 91×91 pass by `CHUNK`."""


def chunk(images: Images | Tensor) -> int:
    """How many of these images (N, C, H, W) one forward pass in evaluation mode takes."""
    height, width = images.shape[2:]
    return max(1, min(CHUNK, PIXELS // (height * width)))


def in_parts(
    images: Images | Tensor, standardise: Callable[[Tensor], Tensor], size: int | None = None
) -> Iterator[Tensor]:
    """Standardised images of uint8 images (N, C, H, W), `size` at a time, or by default `chunk`."""
    return standardised(images.split(size or chunk(images)), standardise)


def standardised(
    parts: Iterable[Tensor], standardise: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """The same of parts of uint8 images."""
    return (standardise(part.float() / 255) for part in parts)


def finite(*tensors: Tensor) -> bool:
    """Whether all values of all tensors are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


@contextlib.contextmanager
def preserve_state(network: nn.Module) -> Iterator[None]:
    """Restores the network's buffers and modes at the end of the block.

    Each forward pass in training mode needs its own block, or it updates the running statistics for the
    next. Gradients are taken inside the block.
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
    backbone: Backbone, images: Images | Tensor, standardise: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Every readout (N, width), float32, of uint8 images (N, C, H, W), in evaluation mode.

    Processes that share the work have equal numbers of forward passes; some may do the last one, too.
    """
    backbone.eval()
    found: dict[str, Tensor] = {}
    passes = list(torch.arange(len(images)).split(chunk(images)))
    each = -(-len(passes) // ranks.size())
    passes += passes[-1:] * (each * ranks.size() - len(passes))
    first = ranks.rank() * each if ranks.size() > 1 else 0
    start = 0
    for part in standardised(ahead(images, passes[first : first + each]), standardise):
        for name, z in backbone.features(part).items():
            if name not in found:
                # Filled in place: to concatenate parts would take the memory twice.
                rows = each * chunk(images) if ranks.size() > 1 else len(images)
                found[name] = z.new_empty(rows, z.shape[1], dtype=torch.float32)
            found[name][start : start + len(part)] = z
        start += len(part)
    return {name: ranks.gather(z)[: len(images)] for name, z in found.items()}


@torch.no_grad()
def reestimate(
    backbone: Backbone,
    images: Images | Tensor,
    batch: int,
    standardise: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, int], object] | None = None,
) -> bool:
    """Replaces running statistics by their mean over the training images, in batches of `batch`.

    Short runs, small groups and untrained networks have poor running statistics, which would look like
    an effect of the norm (precise-BN, Wu & Johnson 2021, 2105.07576, §3). `encode(images, number)` is
    the forward pass of a batch (see `Method.encode`), by default the backbone's. Returns whether the
    backbone has such statistics.
    """
    norms = batch_norms(backbone)
    if not norms:
        return False
    batch = min(batch, len(images))
    # The number of a norm's groups must divide the batch.
    groups = math.lcm(*(int(getattr(norm, "groups", 1)) for norm in norms))
    batch = max(batch - batch % groups, groups)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
    whole = (torch.arange(batch) + start * batch for start in range(len(images) // batch))
    backbone.train()
    try:
        # A batch that processes cannot divide is computed by each of them.
        with contextlib.nullcontext() if batch % ranks.size() == 0 else ranks.alone():
            parts = standardised(ahead(images, map(ranks.own, whole)), standardise)
            for number, part in enumerate(parts):
                if encode is None:
                    backbone.features(part)
                else:
                    encode(part, number)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    backbone.eval()
    return True
