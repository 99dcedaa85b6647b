"""Divides a pool into fixed, stratified train, validation and test splits.

Exact copies of an image are in one split. Otherwise a network would be tested on its training images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from benchmark.core.errors import ParamsError, UserError
from benchmark.core.shares import exact
from benchmark.data.copies import ambiguous
from benchmark.data.manifest import NAMES, UNLABELLED
from benchmark.data.pool import Pool


def split(pool: Pool, splits: Mapping[str, int | float], seed: int) -> dict[str, Tensor]:
    """The indices of each split into the pool, int64, ascending, with every class in each.

    `splits` has a number of images for each of train, validation and test or, for a source without an
    official split, a fraction of every class. An official test part gives the test split, an official
    train part the other two. A preset split is used as it is. If a part is divided, each image is drawn
    once: with fractions its exact copies are in the same split, with numbers they are left out. An image
    of several classes is in the training split. Images without labels are drawn from those that are not
    copies of an image of these splits. Raises UserError for a count that the pool cannot give.
    """
    chosen = _labelled(pool, splits, seed)
    if (UNLABELLED in pool.parts) != (splits.get(UNLABELLED) is not None):
        there = UNLABELLED in pool.parts
        raise ParamsError(
            f"data.splits.{UNLABELLED}: expected {'a number or share' if there else 'none'}, as the "
            f"source has {'such' if there else 'no'} images"
            + ("" if there else f", found {splits[UNLABELLED]}")
        )
    if UNLABELLED in pool.parts:
        chosen[UNLABELLED] = _unlabelled(pool, splits[UNLABELLED], chosen, seed)
    return chosen


def _unlabelled(pool: Pool, wanted: int | float, chosen: Mapping[str, Tensor], seed: int) -> Tensor:
    """Images without labels: a number or a share of those that are in no other split, ascending."""
    indices = pool.parts[UNLABELLED].sort().values
    # An image of the test split must not be trained on, and one of the training split is already.
    taken = pool.originals[torch.cat(list(chosen.values()))]
    indices = indices[~torch.isin(pool.originals[indices], taken)]
    count = wanted if isinstance(wanted, int) else int(exact(wanted) * len(indices))
    if not 0 < count <= len(indices):
        raise ParamsError(
            f"data.splits.{UNLABELLED}: expected at most {len(indices)}, the images without labels "
            f"that are not copies of an image with one, found {wanted}"
        )
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))
    return indices[order[:count]].sort().values


def _labelled(pool: Pool, splits: Mapping[str, int | float], seed: int) -> dict[str, Tensor]:
    fractions = _fractions(splits)
    preset = all(name in pool.parts for name in NAMES)
    if fractions and (preset or "all" not in pool.parts):
        raise ParamsError(
            f"data.splits: expected numbers of images, as the source has an official split "
            f"({', '.join(f'{name} {len(part)}' for name, part in pool.parts.items())}), "
            f"found fractions { {name: splits[name] for name in NAMES} }"
        )
    if preset:
        return _preset(pool, splits)
    generator = torch.Generator().manual_seed(seed)
    if "all" in pool.parts:
        return _divide(pool, "all", NAMES, splits, fractions, generator)
    return _divide(pool, "train", NAMES[:2], splits, {}, generator) | _divide(
        pool, "test", NAMES[2:], splits, {}, generator
    )


def _preset(pool: Pool, splits: Mapping[str, int | float]) -> dict[str, Tensor]:
    for name in NAMES:
        if splits[name] != len(pool.parts[name]):
            raise ParamsError(
                f"data.splits.{name}: expected {len(pool.parts[name])}, as the source has a preset "
                f"split, found {splits[name]}"
            )
    return {name: pool.parts[name].sort().values for name in NAMES}


def _divide(
    pool: Pool,
    part: str,
    names: Sequence[str],
    splits: Mapping[str, int | float],
    fractions: Mapping[str, Fraction],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Disjoint splits of one part: each class is shuffled, then divided from its beginning."""
    # Sorted, so that the draw does not depend on the order of the part.
    indices = pool.parts[part].sort().values
    labels = pool.labels[indices]
    originals = pool.originals[indices]
    # Images with two labels are for training: in a test no answer would be right.
    several = ambiguous(originals, labels) if "train" in names else labels[:0]
    members = [indices[labels == index] for index in range(len(pool.classes))]
    # A part that is one split keeps its copies.
    different = members if len(names) == 1 else [_different(m, pool.originals) for m in members]
    for name, found in zip(pool.classes, different, strict=True):
        if len(found) < len(names):
            raise UserError(
                f"class {name!r}: expected at least {len(names)} different images, one for each of "
                f"{', '.join(names)}, found {len(found)}"
            )
    available = [len(found) for found in different]
    if fractions:
        shares = list(fractions.values())
        table = [_share(shares, max(len(names), int(n * sum(shares)))) for n in available]
    else:
        copies = sum(map(len, members)) - sum(available)
        table = _counted(available, part, {name: int(splits[name]) for name in names}, copies)
    taken: dict[str, list[Tensor]] = {name: [] for name in names}
    for label, (found, counts) in enumerate(zip(different, table, strict=True)):
        shuffled = found[torch.randperm(len(found), generator=generator)]
        shared = torch.isin(pool.originals[shuffled], several)
        if int(shared.sum()) > counts[0]:
            raise UserError(
                f"class {pool.classes[label]!r}: {int(shared.sum())} of its {len(found)} different "
                f"images are in another class too, expected at most {counts[0]}, the images of the "
                "training split; remove such images from one class"
            )
        # The training split gets the first.
        shuffled = torch.cat([shuffled[shared], shuffled[~shared]])
        pieces = shuffled[: sum(counts)].split(counts)
        for name, piece in zip(names, pieces, strict=True):
            if fractions:
                same = torch.isin(pool.originals[members[label]], pool.originals[piece])
                piece = members[label][same]
            taken[name].append(piece)
    return {name: torch.cat(pieces).sort().values for name, pieces in taken.items()}


def _different(indices: Tensor, originals: Tensor) -> Tensor:
    """The first of each image's copies among ascending `indices`, ascending."""
    _, first = np.unique(originals[indices].numpy(), return_index=True)
    return indices[torch.from_numpy(first).sort().values]


def _counted(
    available: Sequence[int], part: str, wanted: Mapping[str, int], copies: int
) -> list[list[int]]:
    """The number of images of each class (rows) in each split (columns), with the sums wanted."""
    for name, count in wanted.items():
        if count < len(available):
            raise ParamsError(
                f"data.splits.{name}: expected at least {len(available)}, one image of each class, "
                f"found {count}"
            )
    if sum(wanted.values()) > sum(available):
        left_out = f" ({copies} more are exact copies, which are left out)" if copies else ""
        raise ParamsError(
            f"data.splits: expected {' + '.join(wanted)} to be at most {sum(available)}, the images of "
            f"the source's {part!r} part{left_out}, found {sum(wanted.values())}"
        )
    left = list(available)
    columns = []
    for later, count in zip(range(len(wanted) - 1, -1, -1), wanted.values(), strict=True):
        # Each class keeps one image for each later split.
        column = _share([n - later for n in left], count)
        left = [n - taken for n, taken in zip(left, column, strict=True)]
        columns.append(column)
    return [list(row) for row in zip(*columns, strict=True)]


def _share(weights: Sequence[int | Fraction], total: int) -> list[int]:
    """`total` divided into whole numbers, none zero, by the largest remainders of the weights.

    In exact arithmetic, since a rounding error could decide ties.
    """
    quotas = [Fraction(weight) * total / Fraction(sum(weights)) for weight in weights]
    counts = [int(quota) for quota in quotas]
    order = sorted(range(len(quotas)), key=lambda index: (counts[index] - quotas[index], index))
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def _fractions(splits: Mapping[str, int | float]) -> dict[str, Fraction]:
    """The splits as exact fractions, in the order of NAMES; empty if they are numbers of images."""
    return {name: exact(splits[name]) for name in NAMES if isinstance(splits[name], float)}
