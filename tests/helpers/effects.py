"""The records that the real claims ask for, in memory, with planted differences.

Experiments, rows, seeds and configurations are those of `params.yaml`, and spreads are those of the
pilots in `claims.yaml`. One call of `judge` then judges a whole table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.analysis.claims import load
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Claims
from benchmark.config import params
from benchmark.planning import plan
from benchmark.planning.cell import Row
from benchmark.planning.configuration import ranking_key
from benchmark.results.published import NAMES, Published
from benchmark.results.records import Result
from benchmark.results.rows import RecordIndex, RowRecords
from tests.helpers import planted, tiny

LEVEL = 0.5
"""Accuracy of a row without an effect, far above the controls."""

CONTROLS = {"untrained": 0.2, "raw-pixels": 0.3}

SHARED = 0.01
"""Standard deviation of what a seed adds to the accuracy of all rows: about what a row adds."""

Key = tuple[str, str, int]
"""Experiment, row and seed."""

Values = dict[Key, dict[str, Any]]
"""What a record says: its `status` and keys of its result. A key that is absent has no record."""

CLAIMS: Claims = load.read(tiny.PROJECT)
PARAMS = params.read(tiny.PROJECT / "params.yaml")
ADVICE = {name: claim.advice for name, claim in CLAIMS.claims.items() if claim.advice}
MARGIN = {name: CLAIMS.margins[advice.metric] for name, advice in ADVICE.items()}


def only(*names: str) -> Claims:
    """The claims of these names, without the differences beside them, which decide nothing.

    The level is divided by the number of claims that are kept.
    """
    kept = {n: CLAIMS.claims[n].model_copy(update={"beside": ()}) for n in names or ADVICE}
    return CLAIMS.model_copy(update={"claims": kept})


class Held(RecordIndex):
    """An index of records in memory."""

    def __init__(self, held: Mapping[str, dict[Row, RowRecords]]) -> None:
        super().__init__(Path(), PARAMS)
        self.held = held

    def rows(self, experiment: str) -> dict[Row, RowRecords]:
        """Every row of an experiment."""
        return self.held[experiment]


def asked() -> list[str]:
    """The experiments of all differences, those beside the claims included."""
    found = (of.experiment for claim in CLAIMS.claims.values() for _, _, of in claim.pairs)
    return list(dict.fromkeys(found))


def blank() -> Held:
    """Every row that the claims ask for, with records that hold no result."""
    return Held({experiment: dict(_blank(experiment)) for experiment in asked()})


def _blank(experiment: str) -> Iterator[tuple[Row, RowRecords]]:
    table = {}
    if PARAMS.experiments[experiment].learning_rates == "tuned":
        table = {entry.row: entry for entry in planted.rates(PARAMS, experiment, [], {})}
    rates = {row: (entry.learning_rate, entry.weight_decay) for row, entry in table.items()}
    for row, seeds in plan.seeds(PARAMS, experiment).items():
        records = {}
        for cell in plan.cells_of(PARAMS, experiment, row, seeds, rates):
            names = {name: getattr(cell, name) for name in NAMES}
            records[cell.seed] = Published(
                **names, record=tiny.record(cell, {}), checksum="c0ffee", content="", file=Path()
            )
        tuning = table.get(plan.tuned_row(PARAMS, row))
        origins = dict.fromkeys(seeds)
        yield row, RowRecords("mini", experiment, row, seeds, records, origins, tuning, None)


def filled(empty: Held, values: Values) -> Held:
    """The records with these results."""
    held = {}
    for experiment, rows in empty.held.items():
        held[experiment] = {
            row: replace(
                own,
                records={
                    seed: _with(entry, values[experiment, str(row), seed])
                    for seed, entry in own.records.items()
                    if (experiment, str(row), seed) in values
                },
            )
            for row, own in rows.items()
        }
    return Held(held)


def _with(entry: Published, said: Mapping[str, Any]) -> Published:
    """A record with a result. Unchecked: checks would take most of the time."""
    result = Result.model_construct(**{"metrics": {}, "diagnostics": {}} | dict(said))
    status = said.get("status", "done")
    record = entry.record.model_copy(update={"status": status, "result": result})
    return replace(entry, record=record)


def draw(empty: Held, effects: Mapping[str, float], random: np.random.Generator) -> Values:
    """Results in which the claims' true differences are `effects`, in the metric's unit."""
    values: Values = {}
    numbers = PARAMS.evaluation.knn_k
    plain, ranking = f"pooled.knn{numbers[0]}", ranking_key(numbers)
    for experiment, rows in empty.held.items():
        of = {name: advice for name, advice in ADVICE.items() if advice.experiment == experiment}
        means, sd = _means(of, effects)
        seeds = PARAMS.experiments[experiment].seeds
        shared = dict(zip(seeds, SHARED * random.standard_normal(len(seeds)), strict=True))
        for row, own in rows.items():
            mean = means.get(str(row), LEVEL)
            noise = sd * random.standard_normal(len(own.seeds))
            for seed, more in zip(own.seeds, noise, strict=True):
                accuracy = CONTROLS.get(row.method, mean + shared[seed] + more)
                # Running statistics cost every row a point.
                metrics = {ranking: accuracy, plain: accuracy - 0.01}
                values[experiment, str(row), seed] = {"metrics": metrics}
        for name, advice in of.items():
            if advice.metric == STABLE_RATE:
                values |= _rates(advice, seeds, effects.get(name, 0.0), ranking, random)
    return values | _gaps(values, effects, random)


def _means(
    of: Mapping[str, Advice], effects: Mapping[str, float]
) -> tuple[dict[str, float], float]:
    """The true accuracies of the rows of an experiment's claims, and their deviation over seeds."""
    means: dict[str, float] = {}
    sd = 0.0
    for name, advice in of.items():
        if advice.metric == "knn_reestimated":
            means[advice.plus] = means.setdefault(advice.minus, LEVEL) + effects.get(name, 0.0)
            sd = advice.pilot.sd / math.sqrt(2)
    return means, sd or 0.01


def _gaps(values: Values, effects: Mapping[str, float], random: np.random.Generator) -> Values:
    """Pretext accuracies of the rows of C3a and C3b, in a common BN group and regrouped.

    The gap under shuffling has C3a's deviation, and that without it the rest of C3b's variance.
    """
    measured, used = ADVICE["C3a"], ADVICE["C3b"]
    shuffled = effects.get("C3a", 0.0)
    rest = math.sqrt(used.pilot.sd**2 - measured.pilot.sd**2)
    found: Values = {}
    for row, mean, sd in (
        (used.minus, shuffled, measured.pilot.sd),
        (used.plus, shuffled + effects.get("C3b", 0.0), rest),
    ):
        for seed in PARAMS.experiments[used.experiment].seeds:
            gap, apart = random.normal(mean, sd), random.normal(0.5, SHARED)
            leakage = {
                "pretext_same_group": apart + gap, "pretext_regrouped": apart, "swap_gap": gap,
                "swap_gap_initial": 0.0,
            }  # fmt: skip
            key = used.experiment, row, seed
            found[key] = values[key] | {"diagnostics": {"leakage": leakage}}
    return found


def _rates(
    advice: Advice, seeds: Sequence[int], mean: float, ranking: str, random: np.random.Generator
) -> Values:
    """Accuracies by learning rate, with the highest stable ones a number of steps apart.

    The steps of a seed are the neighbours of the mean in random order, and sometimes one more or less,
    so that mean and deviation are those of the difference. No arm reaches the lowest or highest rate.
    """
    step = 0.5
    below = math.floor(mean / step)
    above = mean / step - below
    jumps = (advice.pilot.sd / step) ** 2 - above * (1 - above)
    found: Values = {}
    for seed in seeds:
        steps = below + (random.random() < above)
        if random.random() < jumps:
            steps += random.choice((-1, 1))
        lower = random.choice((2, 3))
        for arm, highest in ((advice.minus, lower), (advice.plus, lower + steps)):
            assert 0 <= highest < len(advice.rows(arm)) - 1
            for place, row in enumerate(advice.rows(arm)):
                accuracy = random.normal(LEVEL if place <= highest else LEVEL - 0.15, 0.005)
                said: dict[str, Any] = {"metrics": {ranking: accuracy}}
                if place > highest + 1:
                    said = {"status": "diverged"}
                found[advice.experiment, row, seed] = said
    return found
