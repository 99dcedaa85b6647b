"""What else the records say that bears on a claim: leakage through groups, and speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PlainSerializer

from benchmark.analysis.claims.arms import ACCURACY
from benchmark.analysis.claims.schema import Advice
from benchmark.analysis.statistics import Measured, mean
from benchmark.results.records import Watched
from benchmark.results.rows import RecordIndex, RowRecords


@dataclass(frozen=True)
class Leak:
    """The diagnostics of leakage of one row, each the mean over the seeds that have it, or null."""

    row: str
    together: Annotated[Measured | None, Field(serialization_alias="pretext_same_group")]
    """Pretext accuracy on held-out images with both views of an image in one BN group."""
    apart: Annotated[Measured | None, Field(serialization_alias="pretext_regrouped")]
    """The same with groups redrawn."""
    excess: Annotated[Measured | None, Field(serialization_alias="swap_excess")]
    """See `swap_excess`."""
    batch_dependence: Measured | None
    """Of the backbone: 0 where batch-mates do not matter, 1 where nothing else does."""
    same_group: Measured | None
    """Share of nearest neighbours in a sample's own BN group."""
    same_group_chance: Measured | None
    """The same if neighbours did not know of groups."""


@dataclass(frozen=True)
class Speed:
    """How fast a scheme came half way, at its best learning rate."""

    scheme: str
    rate: Annotated[float, Field(serialization_alias="learning_rate")]
    accuracy: Measured
    """Mean kNN accuracy with re-estimated statistics at that rate."""
    images: tuple[Annotated[float, PlainSerializer(round, return_type=int)], ...]
    """Images until half way, of the seeds that came there."""
    at_most: bool
    """Whether a seed was there before it was first looked at."""
    seeds: int


@dataclass(frozen=True)
class Halfway:
    """How soon schemes came half way."""

    target: Annotated[Measured, Field(serialization_alias="accuracy")]
    """The accuracy half way between the untrained networks' and the first scheme's at its end."""
    speeds: Annotated[tuple[Speed, ...], Field(serialization_alias="schemes")]


def swap_excess(own: RowRecords) -> dict[int, float]:
    """How much more a common BN group helps after the training than before it, by seed, in -1..1.

    The swap gap, by how much better pretext pairs are found with both views of an image in one BN group
    than in redrawn ones, minus that of the same network before its training. It rises with the
    accuracy at the task, so that it alone does not show that the training made use of the groups.
    """
    before = diagnosed(own, "leakage", "swap_gap_initial")
    after = diagnosed(own, "leakage", "swap_gap")
    return {seed: gap - before[seed] for seed, gap in after.items() if seed in before}


def leak(own: RowRecords) -> Leak:
    """The diagnostics of leakage of a row."""

    def of(key: str, part: str = "leakage") -> float | None:
        return _mean(diagnosed(own, part, key).values())

    return Leak(
        row=str(own.row),
        together=of("pretext_same_group"),
        apart=of("pretext_regrouped"),
        excess=_mean(swap_excess(own).values()),
        batch_dependence=of("batch_dependence", "backbone"),
        same_group=of("same_group"),
        same_group_chance=of("same_group_chance"),
    )


def diagnosed(own: RowRecords, part: str, key: str) -> dict[int, float]:
    """A diagnostic by seed, of `leakage` or of a section, for the seeds that have it."""
    found = {}
    for seed in own.seeds:
        entry = own.records.get(seed)
        diagnostics = entry.record.result.diagnostics if entry else {}
        measures = diagnostics.get(part) or diagnostics.get("sections", {}).get(part) or {}
        if measures.get(key) is not None:
            found[seed] = float(measures[key])
    return found


def best_rate(index: RecordIndex, advice: Advice, scheme: str) -> RowRecords | None:
    """The row of a scheme with the best mean accuracy; None while a row lacks a record.

    A rate at which a seed failed has no mean.
    """
    rows = [index.row(advice.experiment, name) for name in advice.rows(scheme)]
    best = None if any(row.missing for row in rows) else index.best(rows, ACCURACY)
    return best[0] if best else None


def halfway(
    index: RecordIndex, advice: Advice, untrained: float, schemes: Sequence[str]
) -> Halfway | None:
    """How soon each scheme came half way, at its best rate, by what was watched while training.

    None where the first scheme, whose end says what half way is, lacks a record or was not watched.
    """
    rows = {scheme: best_rate(index, advice, scheme) for scheme in schemes}
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
                accuracy=mean(list(index.values(row, ACCURACY).values())),
                images=tuple(share * training.images_seen for share in shares if share is not None),
                at_most=any(
                    share == watched.share[0] for share, watched in zip(shares, curves, strict=True)
                ),
                seeds=len(row.seeds),
            )
        )
    return Halfway(target, tuple(speeds))


def _watched(row: RowRecords) -> list[Watched]:
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
