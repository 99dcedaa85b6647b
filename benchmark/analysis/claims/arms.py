"""One side of a difference: its rows, its value for each seed, whether it has learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from benchmark.analysis import gate
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Claims
from benchmark.analysis.statistics import Measured, mean
from benchmark.components.facts import PIXELS
from benchmark.planning import plan
from benchmark.results.rows import RecordIndex, RowRecords

ACCURACY = "knn_reestimated"
"""The metric that says whether something was learnt: fair to short runs and to untrained networks."""


@dataclass(frozen=True)
class Bar:
    """The accuracy from which on the networks of one backbone have learnt."""

    least: Annotated[Measured | None, Field(serialization_alias="accuracy")]
    """The bar itself, null where there is none."""
    row: str
    """The better of the two controls, or why there is no bar."""
    untrained: Measured | None = None
    """Mean accuracy of the best row of untrained backbones, null where it is not known."""
    pixels: Annotated[Measured | None, Field(serialization_alias="raw_pixels")] = None
    """Accuracy of raw pixels, null where it is not known."""

    @property
    def better(self) -> float | None:
        """The accuracy of the better control; null where either is not known."""
        known = self.untrained is not None and self.pixels is not None
        return max(self.untrained or 0.0, self.pixels or 0.0) if known else None


@dataclass(frozen=True)
class Arm:
    """A row of an experiment, or a scheme with a row for each learning rate."""

    name: str
    metric: str
    rows: tuple[RowRecords, ...]
    seeds: tuple[int, ...]
    """Those that it is compared on."""
    values: Mapping[int, float]
    """Of the metric, by seed; a seed may have none."""
    accuracy: float | None
    """Mean kNN accuracy with re-estimated statistics, at the best rate; null where a seed lacks one."""
    learnt: bool | None
    """Whether that reaches the bar; null where either is not known."""
    at_edge: bool
    """Whether a better value may lie beyond the rates tried."""

    @property
    def rate(self) -> float | None:
        """The tuned learning rate; null for several rates and where nothing was tuned."""
        return self.rows[0].rate if len(self.rows) == 1 else None

    @property
    def mean(self) -> float:
        """The mean value over the seeds."""
        return mean([self.values[seed] for seed in self.seeds])


def bar(index: RecordIndex, claims: Claims, experiment: str, backbone: str) -> Bar:
    """The bar of a backbone in an experiment, from its untrained rows and from raw pixels.

    Without either there is none: what is better than an untrained network can be worse than the pixels.
    """
    rows = index.rows(experiment)
    untrained = [
        own
        for row, own in rows.items()
        if row.backbone == backbone and plan.component(index.params, row.method) == "untrained"
    ]
    pixels = [own for row, own in rows.items() if row.backbone == PIXELS]
    kinds = {f"untrained {backbone}": untrained, "raw pixels": pixels}
    if absent := [kind for kind, found in kinds.items() if not found]:
        return Bar(None, f"experiment {experiment} has no {' and no '.join(absent)}")
    if missing := [str(own.row) for own in (*untrained, *pixels) if own.missing]:
        return Bar(None, f"no record of every seed of {', '.join(missing)}")
    best = {kind: index.best(found, ACCURACY) for kind, found in kinds.items()}
    known = {kind: found for kind, found in best.items() if found is not None}
    values = [known[kind][1] if kind in known else None for kind in kinds]
    least = gate.least([v for v in values[:1] if v is not None], values[1], claims.learnt)
    if least is None:
        lacking = ", ".join(kind for kind in kinds if kind not in known)
        return Bar(None, f"no accuracy of {lacking}", *values)
    better, _ = max(known.values(), key=lambda found: found[1])
    return Bar(least, str(better.row), *values)


def arm(
    index: RecordIndex,
    claims: Claims,
    advice: Advice,
    name: str,
    seeds: Sequence[int] | None = None,
) -> Arm:
    """The arm of that name on some seeds, by default on those that all of its rows ask for.

    Raises UserError where the experiment lacks one of its rows.
    """
    rows = [index.row(advice.experiment, row) for row in advice.rows(name)]
    common = set(rows[0].seeds).intersection(*(row.seeds for row in rows))
    own = tuple(seed for seed in rows[0].seeds if seed in (common if seeds is None else seeds))
    least = bar(index, claims, advice.experiment, rows[0].row.backbone).least
    accuracies = [index.values(row, ACCURACY) for row in rows]
    best = {
        seed: max(found)
        for seed in own
        if (found := [values[seed] for values in accuracies if seed in values])
    }
    accuracy = mean(list(best.values())) if own and len(best) == len(own) else None
    if advice.metric == STABLE_RATE:
        values, learnt, at_edge = _stable(rows, accuracies, own, claims.stable, least)
    else:
        known = index.values(rows[0], advice.metric)
        values = {seed: known[seed] for seed in own if seed in known}
        learnt = None if least is None or accuracy is None else accuracy >= least
        at_edge = rows[0].at_edge
    return Arm(name, advice.metric, tuple(rows), own, values, accuracy, learnt, at_edge)


def _stable(
    rows: Sequence[RowRecords],
    accuracies: Sequence[Mapping[int, float]],
    seeds: Sequence[int],
    stable: float,
    least: float | None,
) -> tuple[dict[int, float], bool | None, bool]:
    """log₁₀ of the highest stable rate by seed; whether every seed learnt; whether one is censored."""
    if least is None:
        return {}, None, False
    found: dict[int, float] = {}
    highest: list[float] = []
    for seed in seeds:
        by_rate = {
            row.records[seed].record.cell.recipe.learning_rate: values.get(seed)
            for row, values in zip(rows, accuracies, strict=True)
            if seed in row.records
        }
        rate = highest_stable(by_rate, stable, least)
        if rate is not None:
            found[seed] = math.log10(rate)
            highest += [rate] if rate == max(by_rate) else []
    return found, len(found) == len(seeds), bool(highest)


def highest_stable(
    accuracies: Mapping[float, float | None], stable: float, least: float
) -> float | None:
    """The highest learning rate whose accuracy is within `stable` of the best rate's.

    `accuracies` by rate, null where the training failed. Lower rates need not be stable. None where no
    rate reaches the accuracy `least`: without anything learnt every rate is as good.
    """
    known = {rate: value for rate, value in accuracies.items() if value is not None}
    best = max(known.values(), default=None)
    if best is None or best < least:
        return None
    return max(rate for rate, value in known.items() if value >= best - stable)
