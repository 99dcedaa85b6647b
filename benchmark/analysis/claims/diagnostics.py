"""What else the records say that bears on a claim: leakage through groups, and speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.analysis.claims.arms import ACCURACY
from benchmark.analysis.claims.schema import Advice
from benchmark.analysis.statistics import mean
from benchmark.results.records import Watched
from benchmark.results.rows import Shelf, Shelved


@dataclass(frozen=True)
class Leak:
    """The diagnostics of leakage of one row, each the mean over the seeds that have it, or null."""

    row: str
    together: float | None
    """Pretext accuracy on held-out images with both views of an image in one BN group."""
    apart: float | None
    """The same with groups redrawn."""
    excess: float | None
    """See `swap_excess`."""
    batch_dependence: float | None
    """Of the backbone: 0 where batch-mates do not matter, 1 where nothing else does."""
    same_group: float | None
    """Share of nearest neighbours in a sample's own BN group."""
    same_group_chance: float | None
    """The same if neighbours did not know of groups."""


@dataclass(frozen=True)
class Speed:
    """How fast a scheme came half way, at its best learning rate."""

    scheme: str
    rate: float
    accuracy: float
    """Mean kNN accuracy with re-estimated statistics at that rate."""
    images: tuple[float, ...]
    """Images until half way, of the seeds that came there."""
    at_most: bool
    """Whether a seed was there before it was first looked at."""
    seeds: int


@dataclass(frozen=True)
class Halfway:
    """How soon schemes came half way."""

    target: float
    """The accuracy half way between the untrained networks' and the first scheme's at its end."""
    speeds: tuple[Speed, ...]


def swap_excess(shelved: Shelved) -> dict[int, float]:
    """How much more a common BN group helps after the training than before it, by seed, in -1..1.

    The swap gap, by how much better pretext pairs are found with both views of an image in one BN group
    than in redrawn ones, minus that of the same network before its training. It rises with the
    accuracy at the task, so that it alone does not show that the training made use of the groups.
    """
    before = diagnosed(shelved, "leakage", "swap_gap_initial")
    after = diagnosed(shelved, "leakage", "swap_gap")
    return {seed: gap - before[seed] for seed, gap in after.items() if seed in before}


def leak(shelved: Shelved) -> Leak:
    """The diagnostics of leakage of a row."""

    def of(key: str, part: str = "leakage") -> float | None:
        return _mean(diagnosed(shelved, part, key).values())

    return Leak(
        row=str(shelved.row),
        together=of("pretext_same_group"),
        apart=of("pretext_regrouped"),
        excess=_mean(swap_excess(shelved).values()),
        batch_dependence=of("batch_dependence", "backbone"),
        same_group=of("same_group"),
        same_group_chance=of("same_group_chance"),
    )


def diagnosed(shelved: Shelved, part: str, key: str) -> dict[int, float]:
    """A diagnostic by seed, of `leakage` or of a section, for the seeds that have it."""
    found = {}
    for seed in shelved.seeds:
        entry = shelved.records.get(seed)
        diagnostics = entry.record.result.diagnostics if entry else {}
        measures = diagnostics.get(part) or diagnostics.get("sections", {}).get(part) or {}
        if measures.get(key) is not None:
            found[seed] = float(measures[key])
    return found


def best_rate(shelf: Shelf, advice: Advice, scheme: str) -> Shelved | None:
    """The row of a scheme with the best mean accuracy; None while a row lacks a record.

    A rate at which a seed failed has no mean.
    """
    rows = [shelf.row(advice.experiment, name) for name in advice.rows(scheme)]
    if any(row.missing for row in rows):
        return None
    means = {}
    for place, row in enumerate(rows):
        values = shelf.values(row, ACCURACY)
        if len(values) == len(row.seeds):
            means[place] = mean(list(values.values()))
    return rows[max(means, key=lambda place: means[place])] if means else None


def halfway(
    shelf: Shelf, advice: Advice, untrained: float, schemes: Sequence[str]
) -> Halfway | None:
    """How soon each scheme came half way, at its best rate, by what was watched while training.

    None where the first scheme, whose end says what half way is, lacks a record or was not watched.
    """
    rows = {scheme: best_rate(shelf, advice, scheme) for scheme in schemes}
    reference = rows[schemes[0]]
    if reference is None:
        return None
    ends = [end for watched in _watched(reference) if (end := watched.knn[-1]) is not None]
    if len(ends) < len(reference.seeds):
        return None
    target = (untrained + mean(ends)) / 2
    speeds = []
    for scheme, row in rows.items():
        if row is None:
            continue
        training = row.records[row.seeds[0]].record.cell.recipe
        curves = _watched(row)
        shares = [share_at(w.share, w.knn, target) for w in curves]
        speeds.append(
            Speed(
                scheme=scheme,
                rate=training.learning_rate,
                accuracy=mean(list(shelf.values(row, ACCURACY).values())),
                images=tuple(share * training.images_seen for share in shares if share is not None),
                at_most=any(
                    share == watched.share[0] for share, watched in zip(shares, curves, strict=True)
                ),
                seeds=len(row.seeds),
            )
        )
    return Halfway(target, tuple(speeds))


def _watched(row: Shelved) -> list[Watched]:
    """The kNN accuracy watched while training, of the seeds that have it."""
    found = [row.records[seed].record.result.watched for seed in row.seeds]
    return [watched for watched in found if watched]


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return mean(known) if known else None


def share_at(shares: Sequence[float], knn: Sequence[float | None], target: float) -> float | None:
    """The share of the training after which the kNN accuracy first reaches `target`.

    `shares` are the rising marks, above 0, at which the accuracies `knn` were taken; a mark without
    an accuracy is passed over. Between two marks the accuracy is taken as linear in the logarithm of the
    share. Where the first mark is already there, its share is returned, which is then only an upper
    bound (censored). None where no mark reaches the target.
    """
    earlier: tuple[float, float] | None = None
    for share, accuracy in zip(shares, knn, strict=True):
        if accuracy is None:
            continue
        if accuracy >= target:
            if earlier is None:
                return share
            start, below = earlier
            way = (target - below) / (accuracy - below)
            return start * math.exp2(way * math.log2(share / start))
        earlier = (share, accuracy)
    return None
