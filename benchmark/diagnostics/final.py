"""The diagnostics of a finished cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.diagnostics.collapse import embedding_std
from benchmark.evaluation.features import CHUNK
from benchmark.methods.base import Method

VERSION = 1
"""Raised whenever the same weights would get other diagnostics."""


def diagnose(
    method: Method, images: Tensor, standardise: Callable[[Tensor], Tensor]
) -> dict[str, dict[str, Any]]:
    """The diagnostics of `backbone` and, where the method has one, `projector`, by name.

    `images` (N, C, H, W) uint8 are those that the cell is judged on, without augmentation. The
    networks are in evaluation mode and untouched: BN has the running statistics of the training. The
    projector is the student's and stands on the student's backbone; `backbone` is the one whose
    embeddings are judged. `width` is the embeddings' dimension; a value that is not finite is null.
    """
    found = {"backbone": _measured(_embeddings(method.evaluated, images, standardise))}
    projector = getattr(method, "projector", None)
    if isinstance(projector, nn.Module):
        network = nn.Sequential(method.backbone, projector)
        found["projector"] = _measured(_embeddings(network, images, standardise))
    return found


@torch.no_grad()
def _embeddings(
    network: nn.Module, images: Tensor, standardise: Callable[[Tensor], Tensor]
) -> Tensor:
    network.eval()
    return torch.cat(
        [network(standardise(part.float() / 255)).float() for part in images.split(CHUNK)]
    )


def _measured(z: Tensor) -> dict[str, Any]:
    std = embedding_std(z)
    return {"width": z.shape[1], "embedding_std": std if std < float("inf") else None}
