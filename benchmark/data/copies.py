"""Counts exact copies: images with the same pixels after reading."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from benchmark.data.manifest import Copies
from benchmark.data.pool import NO_LABEL, Pool


def count(pool: Pool, chosen: Mapping[str, Tensor]) -> Copies | None:
    """The exact copies in a source and in its splits; None if the source has none.

    `chosen` has the indices of each split into the pool.
    """
    originals = pool.originals
    distinct = len(originals.unique())
    if distinct == len(originals):
        return None
    labelled = pool.labels != NO_LABEL
    held = {name: originals[indices] for name, indices in chosen.items()}
    return Copies(
        in_source=len(originals) - distinct,
        in_several_classes=len(ambiguous(originals[labelled], pool.labels[labelled])),
        within={name: len(ids) - len(ids.unique()) for name, ids in held.items()},
        across={
            f"{later}_in_{earlier}": int(torch.isin(held[later], held[earlier]).sum())
            for earlier, later in combinations(held, 2)
        },
    )


def ambiguous(originals: Tensor, labels: Tensor) -> Tensor:
    """The images (as the indices of their first copies) that have more than one label, int64."""
    pairs = torch.stack([originals, labels]).unique(dim=1)[0]
    ids, counts = pairs.unique(return_counts=True)
    return ids[counts > 1]
