"""Tunes the learning rate of every row of an experiment, on the validation split.

The same trials for every scheme: rates a fixed factor apart with the recipe's rate in the middle,
each with every seed of the sweep, at the cells' own length. A best rate at the edge is followed by
one more beyond it, a bounded number of times; where it stays at the edge the row says so. Rows whose
scheme does not normalize also choose between the recipe's weight decay and none, since weight decay
decides whether they collapse. The table of trials is kept under version control and is its own
cache: a trial whose fingerprint stands in it is not trained again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import canonical, plan
from benchmark.errors import UserError
from benchmark.plan import Cell, Row
from benchmark.records import FINAL
from benchmark.schema import Params

Setting = tuple[float, float]
"""Learning rate and weight decay."""


@dataclass(frozen=True)
class Trial:
    """One setting of one row with one seed."""

    row: Row
    exponent: int
    setting: Setting
    cell: Cell


@dataclass(frozen=True)
class Result:
    """What a trial came to."""

    status: str
    score: float | None
    """Validation accuracy (nearest neighbours, the first k), null where the cell has none."""


Train = Callable[[Sequence[Cell]], Mapping[str, Result]]
"""Trains cells and returns their results by label."""


def metric(params: Params) -> str:
    """The metric that judges a trial."""
    return f"pooled.knn{params.evaluation.neighbours[0]}"


def tunable(params: Params, experiment: str) -> list[Row]:
    """The rows of an experiment that have a learning rate of their own."""
    return [
        row
        for row in plan.rows(params, experiment)
        if plan.is_trained(params, row.method) and plan.tuned_row(params, row) == row
    ]


def trials(params: Params, row: Row, exponents: Sequence[int]) -> list[Trial]:
    """Every trial of a row at the given powers of the sweep's factor."""
    rate, decay = plan.default_setting(params, row)
    decays = [decay] if plan.is_normalized(params, row.scheme) else sorted({0.0, decay})
    made = []
    for exponent in exponents:
        # Three significant digits: a rate that people can type again. The recipe's own stays as it is.
        scaled = rate * params.sweep.factor**exponent
        setting_rate = float(f"{scaled:.3g}") if exponent else rate
        for wd in decays:
            for seed in params.sweep.seeds:
                label = f"{row}-lr{setting_rate:g}-wd{wd:g}-s{seed}"
                setting = (setting_rate, wd)
                cell = plan.resolve(params, "sweep", row, seed, setting, "validation", label)
                made.append(Trial(row, exponent, setting, cell))
    return made


def tune(
    params: Params, experiment: str, train: Train, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The table's rows; see `write`."""
    reach = params.sweep.rates // 2
    span = {
        row: list(range(-reach, params.sweep.rates - reach)) for row in tunable(params, experiment)
    }
    results: dict[str, Result] = {}
    for turn in range(params.sweep.extensions + 1):
        wanted = [t.cell for row, exps in span.items() for t in trials(params, row, exps)]
        results |= train([cell for cell in wanted if cell.label not in results])
        if turn == params.sweep.extensions:
            break
        grown = 0
        for row, exponents in span.items():
            best = _best(trials(params, row, exponents), results)
            if best is None:
                continue
            if best.exponent == exponents[0]:
                exponents.insert(0, exponents[0] - 1)
                grown += 1
            elif best.exponent == exponents[-1]:
                exponents.append(exponents[-1] + 1)
                grown += 1
        if not grown:
            break
        say(f"{grown} rows have their best rate at an edge: one rate further")
    return [_row(params, row, trials(params, row, exps), results) for row, exps in span.items()]


def _scores(made: Sequence[Trial], results: Mapping[str, Result]) -> dict[Setting, float]:
    """Mean over seeds for each setting; a trial without a score counts as zero."""
    by_setting: dict[Setting, list[float]] = {}
    for trial in made:
        by_setting.setdefault(trial.setting, []).append(results[trial.cell.label].score or 0.0)
    return {setting: sum(scores) / len(scores) for setting, scores in by_setting.items()}


def _best(made: Sequence[Trial], results: Mapping[str, Result]) -> Trial | None:
    """The trial with the best mean; among equals the lowest rate. None where nothing scored."""
    scores = _scores(made, results)
    best = max(made, key=lambda trial: (scores[trial.setting], -trial.exponent))
    return best if scores[best.setting] > 0 else None


def _row(
    params: Params, row: Row, made: Sequence[Trial], results: Mapping[str, Result]
) -> dict[str, Any]:
    scores = _scores(made, results)
    default = plan.default_setting(params, row)
    best = _best(made, results)
    chosen = best.setting if best else default
    exponents = sorted({trial.exponent for trial in made})
    return {
        "method": row.method,
        "family": row.family,
        "scheme": row.scheme,
        "rate": chosen[0],
        "weight_decay": chosen[1],
        "validation": scores[chosen],
        "default_rate": default[0],
        "default_weight_decay": default[1],
        "default_validation": scores[default],
        "at_edge": best is None or best.exponent in (exponents[0], exponents[-1]),
        "trials": [
            {
                "rate": trial.setting[0],
                "weight_decay": trial.setting[1],
                "seed": trial.cell.seed,
                "label": trial.cell.label,
                "status": results[trial.cell.label].status,
                "validation": results[trial.cell.label].score,
            }
            for trial in made
        ],
    }


def path(root: Path, track: str, experiment: str) -> Path:
    """Where an experiment's table of rates is."""
    return root / "results" / track / "rates" / f"{experiment}.json"


def write(
    target: Path,
    params: Params,
    experiment: str,
    table: list[dict[str, Any]],
    prints: Mapping[str, str],
) -> None:
    """Writes the table, each trial with its fingerprint."""
    for row in table:
        for trial in row["trials"]:
            trial["fingerprint"] = prints[trial["label"]]
    document = {
        "track": params.track,
        "experiment": experiment,
        "metric": f"validation accuracy, {metric(params)}",
        "seeds": list(params.sweep.seeds),
        "rows": table,
    }
    canonical.write(target, canonical.pretty(document))


def load(source: Path) -> dict[str, Any]:
    """The table as written, or an empty one."""
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"rows": []}
    except ValueError as error:
        raise UserError(f"{source}: not a table of rates ({error})") from None
    return dict(found)


def settings(table: Mapping[str, Any]) -> dict[Row, Setting]:
    """The tuned learning rate and weight decay of every row."""
    return {
        Row(row["method"], row["family"], row["scheme"]): (row["rate"], row["weight_decay"])
        for row in table["rows"]
    }


def known(root: Path, track: str) -> dict[str, Result]:
    """The results of all trials in a track's tables, by fingerprint.

    Experiments share trials. Those that crashed are to be tried again.
    """
    tables = sorted(path(root, track, "any").parent.glob("*.json"))
    return {
        trial["fingerprint"]: Result(trial["status"], trial["validation"])
        for table in tables
        for row in load(table)["rows"]
        for trial in row["trials"]
        if trial["status"] in FINAL
    }
