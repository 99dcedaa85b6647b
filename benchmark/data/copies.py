"""Counts exact copies: images whose pixels are the same after they were read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from benchmark.data.pool import Pool


def count(pool: Pool, chosen: Mapping[str, Tensor]) -> dict[str, Any]:
    """The exact copies in a source and in its splits; empty if the source has none.

    `chosen` has the indices of each split into the pool. in_source: images that repeat an earlier
    one. in_several_classes: different images that have more than one label. within: images of a split
    that repeat another one of the split. across: images of a split that another split has too, e.g.
    `test_in_train`.
    """
    originals = pool.originals
    distinct = len(originals.unique())
    if distinct == len(originals):
        return {}
    held = {name: originals[indices] for name, indices in chosen.items()}
    return {
        "in_source": len(originals) - distinct,
        "in_several_classes": len(ambiguous(originals, pool.labels)),
        "within": {name: len(ids) - len(ids.unique()) for name, ids in held.items()},
        "across": {
            f"{later}_in_{earlier}": int(torch.isin(held[later], held[earlier]).sum())
            for earlier, later in combinations(held, 2)
        },
    }


def ambiguous(originals: Tensor, labels: Tensor) -> Tensor:
    """Those of the images (by their first copy) that have more than one label, int64."""
    pairs = torch.stack([originals, labels]).unique(dim=1)[0]
    ids, counts = pairs.unique(return_counts=True)
    return ids[counts > 1]
