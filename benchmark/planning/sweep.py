"""Tunes the learning rate of each row of an experiment, on the validation split.

All schemes get the same trials: rates a fixed factor apart, with the recipe's rate in the middle, each
with every seed of the sweep, at the cells' own length. The chosen rate is the best of a smooth fit
(`rate_fit`) of the metric that ranks rows. If it is at an edge, one more rate beyond the edge is tried
for all schemes of the method and backbone, a limited number of times. A row whose best rate is still at
an edge is flagged. A trial whose fingerprint is in a table of rates is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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


Group = tuple[str, str]
"""A method and a backbone, whose schemes all get the same trials."""

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


def groups(params: Params, experiment: str) -> dict[Group, list[Row]]:
    """The rows that are tunable by method and backbone, in the order of a table of rates."""
    found: dict[Group, list[Row]] = {}
    for row in tunable(params, experiment):
        found.setdefault((row.method, row.backbone), []).append(row)
    return found


def rate_at(params: Params, row: Row, place: float) -> float:
    """The recipe's rate times a power of the sweep's factor, with three significant digits."""
    rate, _ = plan.default_setting(params, row)
    return float(f"{rate * params.sweep.factor**place:.3g}") if place else rate


def trials(params: Params, experiment: str, row: Row, exponents: Sequence[int]) -> list[Trial]:
    """Every trial of a row for an experiment, at the given powers of the sweep's factor."""
    _, decay = plan.default_setting(params, row)
    made = []
    for exponent in exponents:
        setting = rate_at(params, row, exponent), decay
        for seed in params.sweep_seeds(experiment):
            label = f"{row}-lr{setting[0]:g}-s{seed}"
            cell = plan.resolve(params, "sweep", row, seed, setting, "validation", label)
            made.append(Trial(row, exponent, setting, cell))
    return made


def tune(
    params: Params,
    experiment: str,
    train: Train,
    say: Callable[[str], None],
    only: Collection[Group] | None = None,
) -> list[TunedRow]:
    """Tunes every row that is tunable, or those of some groups; `say` is told of extensions.

    A row's result does not depend on which other groups are tuned.
    """
    rows_of = groups(params, experiment)
    rows_of = {group: rows for group, rows in rows_of.items() if only is None or group in only}
    reach = params.sweep.learning_rates // 2
    tried = {group: list(range(-reach, params.sweep.learning_rates - reach)) for group in rows_of}
    results: dict[str, Result] = {}

    def made(row: Row) -> list[Trial]:
        return trials(params, experiment, row, tried[row.method, row.backbone])

    for turn in range(params.sweep.extensions + 1):
        wanted = [trial.cell for rows in rows_of.values() for row in rows for trial in made(row)]
        results |= train([cell for cell in wanted if cell.label not in results])
        if turn == params.sweep.extensions:
            break
        grown = 0
        for group, rows in rows_of.items():
            exponents = tried[group]
            fits = [_fit(made(row), results) for row in rows]
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
    return [_row(params, row, made(row), results) for rows in rows_of.values() for row in rows]


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
