"""Tunes the learning rate of each row of an experiment, on the validation split.

All schemes get the same trials: rates a fixed factor apart, with the recipe's rate in the middle, each
with every seed of the sweep, at the cells' own length. The chosen rate is the best of a smooth fit
(`rate_fit`) of the metric that ranks rows. If it is at an edge, one more rate beyond the edge is tried
for all schemes of the method and backbone, a limited number of times. A row whose best rate is still at
an edge is flagged. A trial whose fingerprint is in a table of rates is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmark.config.schema import Params
from benchmark.planning import plan
from benchmark.planning.cell import Cell, Row
from benchmark.planning.rate_fit import Fit, fit
from benchmark.planning.rate_table import (
    Expected,
    OneStep,
    Result,
    Setting,
    TrialRecord,
    TunedRow,
)


@dataclass(frozen=True)
class Trial:
    """One setting of one row with one seed."""

    row: Row
    exponent: int
    setting: Setting
    cell: Cell


Train = Callable[[Sequence[Cell]], Mapping[str, Result]]
"""Trains cells and returns their results by label."""


def tunable(params: Params, experiment: str) -> list[Row]:
    """The rows of an experiment that get a tuned learning rate of their own."""
    rows = plan.rows(params, experiment)
    if params.experiments[experiment].learning_rates == "default":
        return []
    return [
        row
        for row in rows
        if plan.is_trained(params, row.method) and plan.tuned_row(params, row) == row
    ]


def rate_at(params: Params, row: Row, place: float) -> float:
    """The recipe's rate times a power of the sweep's factor, with three significant digits."""
    rate, _ = plan.default_setting(params, row)
    return float(f"{rate * params.sweep.factor**place:.3g}") if place else rate


def trials(params: Params, row: Row, exponents: Sequence[int]) -> list[Trial]:
    """Every trial of a row at the given powers of the sweep's factor."""
    _, decay = plan.default_setting(params, row)
    made = []
    for exponent in exponents:
        setting = rate_at(params, row, exponent), decay
        for seed in params.sweep.seeds:
            label = f"{row}-lr{setting[0]:g}-s{seed}"
            cell = plan.resolve(params, "sweep", row, seed, setting, "validation", label)
            made.append(Trial(row, exponent, setting, cell))
    return made


def tune(
    params: Params, experiment: str, train: Train, say: Callable[[str], None]
) -> list[TunedRow]:
    """Tunes every row that is tunable; `say` is told of extensions."""
    reach = params.sweep.learning_rates // 2
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in tunable(params, experiment):
        groups.setdefault((row.method, row.backbone), []).append(row)
    tried = {group: list(range(-reach, params.sweep.learning_rates - reach)) for group in groups}
    results: dict[str, Result] = {}
    for turn in range(params.sweep.extensions + 1):
        wanted = [
            trial.cell
            for group, rows in groups.items()
            for row in rows
            for trial in trials(params, row, tried[group])
        ]
        results |= train([cell for cell in wanted if cell.label not in results])
        if turn == params.sweep.extensions:
            break
        grown = 0
        for group, rows in groups.items():
            exponents = tried[group]
            fits = [_fit(trials(params, row, exponents), results) for row in rows]
            places = [found.place for found in fits if found and found.at_edge]
            middle = (exponents[0] + exponents[-1]) / 2
            lower, higher = any(p <= middle for p in places), any(p > middle for p in places)
            grown += lower + higher
            if lower:
                exponents.insert(0, exponents[0] - 1)
            if higher:
                exponents.append(exponents[-1] + 1)
        if not grown:
            break
        say(f"best rates at an edge: {grown}; one rate further there, for every scheme")
    return [
        _row(params, row, trials(params, row, tried[group]), results)
        for group, rows in groups.items()
        for row in rows
    ]


def _fit(made: Sequence[Trial], results: Mapping[str, Result]) -> Fit | None:
    scores: dict[int, list[float | None]] = {}
    for trial in made:
        scores.setdefault(trial.exponent, []).append(results[trial.cell.label].score)
    return fit(scores)


def _row(
    params: Params, row: Row, made: Sequence[Trial], results: Mapping[str, Result]
) -> TunedRow:
    rate, decay = plan.default_setting(params, row)
    found = _fit(made, results)
    place = found.place if found else 0
    own = [results[trial.cell.label].score for trial in made if trial.exponent == 0]
    whole = [score for score in own if score is not None]

    def expected(at: float) -> Expected:
        return Expected(
            learning_rate=rate_at(params, row, at), validation=found.score(at) if found else None
        )

    chosen = expected(place)
    return TunedRow(
        method=row.method,
        backbone=row.backbone,
        scheme=row.scheme,
        learning_rate=chosen.learning_rate,
        weight_decay=decay,
        validation=chosen.validation,
        one_step=OneStep(lower=expected(place - 1), higher=expected(place + 1)),
        default_learning_rate=rate,
        default_weight_decay=decay,
        default_validation=fmean(whole) if whole and len(whole) == len(own) else None,
        at_edge=found is None or found.at_edge,
        trials=tuple(_record(trial, results[trial.cell.label]) for trial in made),
    )


def _record(trial: Trial, result: Result) -> TrialRecord:
    return TrialRecord(
        label=trial.cell.label,
        fingerprint=result.fingerprint,
        seed=trial.cell.seed,
        learning_rate=trial.setting[0],
        weight_decay=trial.setting[1],
        status=result.status,
        validation=result.score,
    )
