"""The embedded track: a fixed part of Fashion-MNIST with nuisances, shipped with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from benchmark.core.errors import UserError
from benchmark.data.manifest import NAMES
from benchmark.data.pool import Pool
from benchmark.data.sources import fashion_mnist

COMPONENT = {"name": "mini", "version": 1, "options": {}}

FILE = Path(__file__).parents[1] / "mini" / "mini.safetensors"
SHA256 = "695b01861b9e0fc61c28b2874cf8ace20c1ab7bb3707cfccc200eb915a68bd7f"
CLASSES = (fashion_mnist.CLASSES[0], *(name.lower() for name in fashion_mnist.CLASSES[1:]))


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The finished images of `benchmark/data/mini/make.py`, with their splits."""
    raw = FILE.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256:
        raise UserError(f"{FILE}: sha256 {found}, expected {SHA256}; the package is damaged")
    tensors = load(raw)
    sizes = [len(tensors[f"{name}.images"]) for name in NAMES]
    return Pool(
        images=torch.cat([tensors[f"{name}.images"] for name in NAMES]),
        labels=torch.cat([tensors[f"{name}.labels"] for name in NAMES]).to(torch.int64),
        parts=dict(zip(NAMES, torch.arange(sum(sizes)).split(sizes), strict=True)),
        classes=CLASSES,
    )
