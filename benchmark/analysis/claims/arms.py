"""One side of a difference: its rows, its value for each seed, and whether it has learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated

from pydantic import Field

from benchmark.analysis import gate
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Claims
from benchmark.analysis.statistics import Measured
from benchmark.components.facts import PIXELS
from benchmark.planning import plan
from benchmark.results.records import Record
from benchmark.results.rows import RecordIndex, RowRecords

ACCURACY = "knn_reestimated"
"""The metric that shows whether a row has learnt: fair to short runs and to untrained networks."""


@dataclass(frozen=True)
class Bar:
    """The accuracy that the networks of one backbone must reach to have learnt."""

    least: Annotated[Measured | None, Field(serialization_alias="accuracy")]
    """The bar itself, null if there is none."""
    row: str
    """The better of the two controls, or why there is no bar."""
    untrained: Measured | None = None
    """Mean accuracy of the best row of untrained backbones, null if unknown."""
    pixels: Annotated[Measured | None, Field(serialization_alias="raw_pixels")] = None
    """Accuracy of raw pixels, null if unknown."""

    @property
    def better(self) -> float | None:
        """The accuracy of the better control; null if either is unknown."""
        if self.untrained is None or self.pixels is None:
            return None
        return max(self.untrained, self.pixels)


@dataclass(frozen=True)
class Arm:
    """A row of an experiment, or a scheme with a row for each learning rate."""

    name: str
    metric: str
    rows: tuple[RowRecords, ...]
    seeds: tuple[int, ...]
    """The seeds of the comparison."""
    values: Mapping[int, float]
    """Of the metric, by seed; a seed may lack one."""
    accuracy: float | None
    """Mean kNN accuracy with re-estimated statistics, at the best rate; null if a seed lacks one."""
    learnt: bool | None
    """Whether that reaches the bar; null if either is unknown."""
    at_edge: bool
    """Whether a rate beyond those tried may give a better value."""

    @property
    def rate(self) -> float | None:
        """The tuned learning rate; null for several rates, and if nothing was tuned."""
        return self.rows[0].rate if len(self.rows) == 1 else None

    @property
    def parameters(self) -> int | None:
        """Those of the backbone; null if unknown."""
        return max((own for p in self._records if (own := p.result.parameters)), default=None)

    @property
    def images(self) -> int | None:
        """Images seen in training, repetitions counted and views not; null if unknown."""
        recipes = [recipe for p in self._records if (recipe := p.cell.training)]
        return max((recipe.images_seen for recipe in recipes), default=None)

    @property
    def _records(self) -> list[Record]:
        return [own.record for row in self.rows for own in row.records.values()]


def bar(index: RecordIndex, claims: Claims, experiment: str, backbone: str) -> Bar:
    """The bar of a backbone in an experiment, from its untrained rows and from raw pixels.

    There is none without both, as a network can be better than an untrained one and worse than pixels.
    """
    rows = index.rows(experiment)
    kinds = {
        f"untrained {backbone}": [
            own
            for row, own in rows.items()
            if row.backbone == backbone and plan.component(index.params, row.method) in gate.STARTS
        ],
        "raw pixels": [own for row, own in rows.items() if row.backbone == PIXELS],
    }
    if absent := [kind for kind, controls in kinds.items() if not controls]:
        return Bar(None, f"experiment {experiment} has no {' and no '.join(absent)}")
    every = [own for controls in kinds.values() for own in controls]
    if missing := [str(own.row) for own in every if own.missing]:
        return Bar(None, f"no record of every seed of {', '.join(missing)}")
    # Without one that failed, the best of the others may be lower.
    if failed := [
        str(own.row) for own in every if len(index.values(own, ACCURACY)) < len(own.seeds)
    ]:
        return Bar(None, f"no accuracy of every seed of {', '.join(failed)}")
    known = [control for c in kinds.values() if (control := index.best(c, ACCURACY))]
    (_, untrained), (_, pixels) = known
    least = gate.least([untrained], pixels, claims.learnt)
    better, _ = max(known, key=lambda control: control[1])
    return Bar(least, str(better.row), untrained, pixels)


def arm(
    index: RecordIndex,
    claims: Claims,
    advice: Advice,
    name: str,
    seeds: Sequence[int] | None = None,
) -> Arm:
    """The arm of that name on some seeds, by default on those that all of its rows ask for.

    Raises UserError if the experiment lacks one of its rows.
    """
    rows = [index.row(advice.experiment, row) for row in advice.rows(name)]
    common = set(rows[0].seeds).intersection(*(row.seeds for row in rows))
    own = tuple(seed for seed in rows[0].seeds if seed in (common if seeds is None else seeds))
    least = bar(index, claims, advice.experiment, rows[0].row.backbone).least
    accuracies = [index.values(row, ACCURACY) for row in rows]
    best = [
        max(values[seed] for values in accuracies if seed in values)
        for seed in own
        if any(seed in values for values in accuracies)
    ]
    # The best of a part of the rates need not be the best.
    complete = all(seed in row.records for row in rows for seed in own)
    accuracy = fmean(best) if own and complete and len(best) == len(own) else None
    learnt, at_edge = None, False
    values: dict[int, float] = {}
    if advice.metric != STABLE_RATE:
        known = index.values(rows[0], advice.metric)
        values = {seed: known[seed] for seed in own if seed in known}
        learnt = None if least is None or accuracy is None else accuracy >= least
        at_edge = rows[0].at_edge
    elif least is not None and complete:
        values, at_edge = _stable(rows, accuracies, own, claims.stable, least)
        learnt = len(values) == len(own)
    return Arm(name, advice.metric, tuple(rows), own, values, accuracy, learnt, at_edge)


def _stable(
    rows: Sequence[RowRecords],
    accuracies: Sequence[Mapping[int, float]],
    seeds: Sequence[int],
    stable: float,
    least: float,
) -> tuple[dict[int, float], bool]:
    """log₁₀ of the highest stable rate by seed, and whether the highest rate tried was stable."""
    rates: dict[int, float] = {}
    at_edge = False
    for seed in seeds:
        by_rate = {
            row.records[seed].record.cell.recipe.learning_rate: values.get(seed)
            for row, values in zip(rows, accuracies, strict=True)
            if seed in row.records
        }
        rate = highest_stable(by_rate, stable, least)
        if rate is not None:
            rates[seed] = math.log10(rate)
            at_edge |= rate == max(by_rate)
    return rates, at_edge


def highest_stable(
    accuracies: Mapping[float, float | None], stable: float, least: float
) -> float | None:
    """The highest learning rate whose accuracy is within `stable` of the best rate's.

    `accuracies` by rate, None if the training failed. Lower rates need not be stable. None if no rate
    reaches the accuracy `least`: if nothing is learnt, every rate is as good.
    """
    known = {rate: value for rate, value in accuracies.items() if value is not None}
    best = max(known.values(), default=None)
    if best is None or best < least:
        return None
    return max(rate for rate, value in known.items() if value >= best - stable)
