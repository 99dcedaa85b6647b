"""Tiny cells' diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmark.components import registry
from benchmark.diagnostics.diagnose import diagnose
from benchmark.methods.base import Method
from benchmark.planning.configuration import Configuration
from tests.golden.values import VIEWS
from tests.helpers.small import SIDE, TRAINED, build, configuration

COUNTS = {"train": 64, "test": 40}


def photos(n: int, seed: int = 0) -> Tensor:
    """Noise images (n, 3, SIDE, SIDE), uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels of the splits that diagnostics are given."""
    return {
        name: (photos(count, seed), torch.arange(count) % 5)
        for seed, (name, count) in enumerate(COUNTS.items())
    }


def standardise(images: Tensor) -> Tensor:
    """Zero mean."""
    return images - 0.5


def config(views: int, seed: int = 0) -> Configuration:
    """That of a cell with so many views; without any, it is not trained."""
    found = configuration("simclr", "resnet", "bn", seed, training={"views": [VIEWS] * views})
    return found if views else found.model_copy(update={"training": None})


def diagnosed(
    network: Method,
    method: str,
    initial: Callable[[], Method] | None = None,
    views: int | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The diagnostics of a method's network; `initial` is by default a resnet with ghost BN."""
    if views is None:
        views = registry.facts("method", method)["views"] if method in TRAINED else 0
    made = initial or (lambda: build(method, "resnet", "ghost-bn"))
    return diagnose(network, config(views, seed), splits(), standardise, made)
