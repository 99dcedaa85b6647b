"""Checksums of the first steps of a training run, to find where two runs first differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.core import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

STAGES = ("weights", "views", "first_step")
"""In the order of training: initial weights, the first step's views, the weights after that step."""

Trace = dict[str, str]
"""sha256 by stage; stages that a cell does not reach are missing."""


def of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 (hex) of named tensors: names, types, shapes and values, in any memory format."""
    # Imported here: comparing traces does not need torch.
    from torch import uint8

    digest = hashlib.sha256()
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        digest.update(plain.reshape(-1).view(dtype=uint8).numpy().tobytes())
    return digest.hexdigest()


class Tracer:
    """Keeps the checksums of one training run in a file, for when it is resumed.

    The file is written at the last stage, before any checkpoint. Without a file nothing is kept.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        known = (canonical_json.read_sealed(file) if file else None) or {}
        self.found: Trace = {stage: str(known[stage]) for stage in STAGES if stage in known}

    def __call__(self, stage: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Records the tensors of a stage."""
        before = self.found.get(stage)
        self.found[stage] = of_tensors(tensors)
        if self.file and stage == STAGES[-1] and self.found[stage] != before:
            canonical_json.write_sealed(self.file, self.found)


def first_difference(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """The first stage at which two traces differ; None if all common stages agree."""
    for stage in STAGES:
        if stage in ours and stage in theirs and ours[stage] != theirs[stage]:
            return stage
    return None
