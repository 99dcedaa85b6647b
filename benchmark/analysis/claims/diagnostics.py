"""Secondary diagnostics of a claim: leakage through BN groups, and speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated

from pydantic import Field, PlainSerializer

from benchmark.analysis.claims.arms import ACCURACY
from benchmark.analysis.claims.schema import Advice
from benchmark.analysis.statistics import Measured
from benchmark.results.records import Watched
from benchmark.results.rows import RecordIndex, RowRecords


@dataclass(frozen=True)
class Leak:
    """The leakage diagnostics of one row: each the mean over the seeds that have it, or null."""

    row: str
    together: Annotated[Measured | None, Field(serialization_alias="pretext_same_group")]
    """Pretext accuracy on held-out images with both views of an image in one BN group."""
    apart: Annotated[Measured | None, Field(serialization_alias="pretext_regrouped")]
    """The same with groups redrawn."""
    excess: Annotated[Measured | None, Field(serialization_alias="swap_excess")]
    """See `swap_excess`."""
    batch_dependence: Measured | None
    """Of the backbone: 0 if batch-mates do not matter, 1 if nothing else does."""
    same_group: Measured | None
    """Share of nearest neighbours in a sample's own BN group."""
    same_group_chance: Measured | None
    """The same share if neighbours were independent of groups."""


@dataclass(frozen=True)
class Speed:
    """How fast a scheme reached half way, at its best learning rate."""

    scheme: str
    rate: Annotated[float, Field(serialization_alias="learning_rate")]
    accuracy: Measured
    """Mean kNN accuracy with re-estimated statistics at that rate."""
    images: tuple[Annotated[float, PlainSerializer(round, return_type=int)], ...]
    """Images until half way, for each seed that reached it."""
    at_most: bool
    """Whether a seed was already there when first measured."""
    seeds: int


@dataclass(frozen=True)
class Halfway:
    """How soon schemes reached half way."""

    target: Annotated[Measured, Field(serialization_alias="accuracy")]
    """The accuracy half way between the untrained networks and the first scheme's end."""
    speeds: Annotated[tuple[Speed, ...], Field(serialization_alias="schemes")]


def swap_excess(own: RowRecords) -> dict[int, float]:
    """How much more a common BN group helps after training than before it, by seed, in -1..1.

    The swap gap is the pretext accuracy with both views of an image in one BN group, minus that with
    groups redrawn. The excess is the gap minus that of the same network before training. It rises with
    the accuracy at the task, so it alone does not show that training exploited the groups.
    """
    before = diagnosed(own, "leakage", "swap_gap_initial")
    after = diagnosed(own, "leakage", "swap_gap")
    return {seed: gap - before[seed] for seed, gap in after.items() if seed in before}


def leak(own: RowRecords) -> Leak:
    """The leakage diagnostics of a row."""

    def average(values: Mapping[int, float]) -> float | None:
        return fmean(values.values()) if values else None

    def of(key: str, part: str = "leakage") -> float | None:
        return average(diagnosed(own, part, key))

    return Leak(
        row=str(own.row),
        together=of("pretext_same_group"),
        apart=of("pretext_regrouped"),
        excess=average(swap_excess(own)),
        batch_dependence=of("batch_dependence", "backbone"),
        same_group=of("same_group"),
        same_group_chance=of("same_group_chance"),
    )


def diagnosed(own: RowRecords, part: str, key: str) -> dict[int, float]:
    """A diagnostic by seed, of `leakage` or of a section, for the seeds that have it."""
    values = {}
    for seed in own.seeds:
        entry = own.records.get(seed)
        diagnostics = entry.record.result.diagnostics if entry else {}
        measures = diagnostics.get(part) or diagnostics.get("sections", {}).get(part) or {}
        if measures.get(key) is not None:
            values[seed] = float(measures[key])
    return values


def halfway(
    index: RecordIndex, advice: Advice, untrained: float, schemes: Sequence[str]
) -> Halfway | None:
    """How soon each scheme reached half way, at its best rate, by the kNN watched while training.

    None if the first scheme, whose end defines half way, lacks a record or was not watched. A scheme
    that the track lacks or with a missing record is left out, and so is a rate at which a seed failed.
    """
    best: dict[str, tuple[RowRecords, float]] = {}
    for scheme in schemes:
        if not index.has(advice.experiment, advice.rows(scheme)):
            continue
        rows = [index.row(advice.experiment, name) for name in advice.rows(scheme)]
        missing = any(row.missing for row in rows)
        if not missing and (top := index.best(rows, ACCURACY)):
            best[scheme] = top
    if schemes[0] not in best:
        return None
    reference, _ = best[schemes[0]]
    ends = [end for watched in _watched(reference) if (end := watched.knn[-1]) is not None]
    if len(ends) < len(reference.seeds):
        return None
    target = (untrained + fmean(ends)) / 2
    speeds = []
    for scheme, (row, accuracy) in best.items():
        training = row.records[row.seeds[0]].record.cell.recipe
        curves = _watched(row)
        shares = [share_at(watched.share, watched.knn, target) for watched in curves]
        speeds.append(
            Speed(
                scheme=scheme,
                rate=training.learning_rate,
                accuracy=accuracy,
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
    results = (row.records[seed].record.result.watched for seed in row.seeds)
    return [watched for watched in results if watched]


def share_at(shares: Sequence[float], knn: Sequence[float | None], target: float) -> float | None:
    """The share of the training after which the kNN accuracy first reaches `target`.

    The accuracies `knn` were measured at the rising `shares`, all above 0; a share without an accuracy
    is skipped. Between two of them the accuracy is taken as linear in the logarithm of the share. If the
    first accuracy already reaches the target, its share is returned, which is only an upper bound
    (censored). None if no accuracy reaches the target.
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
