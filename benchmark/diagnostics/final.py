"""The diagnostics of a finished cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.diagnostics.collapse import embedding_std
from benchmark.evaluation.features import in_parts
from benchmark.methods.base import Method

VERSION = 1
"""Raised whenever the same weights would get other diagnostics."""


def diagnose(
    method: Method, images: Tensor, standardise: Callable[[Tensor], Tensor]
) -> dict[str, dict[str, Any]]:
    """The diagnostics of the sections that the method names in `measured`.

    `images` (N, C, H, W) uint8 are those that the cell is judged on, without augmentation. The
    networks are in evaluation mode and untouched: BN has the running statistics of the training.
    `width` is the embeddings' dimension; a value that is not finite is null.
    """
    return {
        section: _measured(_embeddings(network, images, standardise))
        for section, network in method.measured().items()
    }


@torch.no_grad()
def _embeddings(
    network: nn.Module, images: Tensor, standardise: Callable[[Tensor], Tensor]
) -> Tensor:
    network.eval()
    return torch.cat([network(part).float() for part in in_parts(images, standardise)])


def _measured(z: Tensor) -> dict[str, Any]:
    std = embedding_std(z)
    return {"width": z.shape[1], "embedding_std": std if std < float("inf") else None}
