"""Tables of tuned learning rates: `results/<track>/rates/<experiment>.json`.

Under overrides (`--set`) an experiment has another table, whose name has a checksum of them. Trials are
shared by all tables, since their fingerprints hold all that decides their results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from benchmark.config.overrides import flags
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.core.value import Value, first_error
from benchmark.planning.cell import FINAL, Row
from benchmark.planning.configuration import ranking_key

Setting = tuple[float, float]
"""Learning rate and weight decay."""


@dataclass(frozen=True)
class Result:
    """The result of a trial."""

    fingerprint: str
    status: str
    score: float | None
    """Validation accuracy (nearest neighbours, the first k); None if the trial failed."""


class _Part(Value):
    model_config = ConfigDict(use_attribute_docstrings=True)


class TrialRecord(_Part):
    """One trial: a training run with one learning rate and one seed."""

    label: str
    fingerprint: str
    """sha256 of the trial's cell."""
    seed: int
    learning_rate: float
    weight_decay: float
    status: str
    """How the trial ended, e.g. `done` or `diverged`."""
    validation: float | None
    """Accuracy on the validation split in 0..1; null if the trial failed."""


class Expected(_Part):
    """What the fit expects of a learning rate."""

    learning_rate: float
    validation: float | None
    """Accuracy on the validation split; null if the rate was not tried or a trial failed there."""


class OneStep(_Part):
    """The learning rates one step of the sweep from the chosen one."""

    lower: Expected
    higher: Expected


class TunedRow(_Part):
    """The sweep of one row of an experiment."""

    method: str
    backbone: str
    scheme: str
    learning_rate: float
    """The chosen rate."""
    weight_decay: float
    validation: float | None
    """The accuracy that the fit expects at the chosen rate; null if no rate has all its scores."""
    one_step: OneStep
    default_learning_rate: float
    """The recipe's rate."""
    default_weight_decay: float
    default_validation: float | None
    """Mean accuracy at the recipe's rate; null if a trial failed."""
    at_edge: bool
    """Whether a better rate may be beyond those tried."""
    trials: tuple[TrialRecord, ...]

    @property
    def row(self) -> Row:
        """The row of the experiment."""
        return Row(self.method, self.backbone, self.scheme)

    @property
    def group(self) -> tuple[str, str]:
        """Its method and backbone, whose schemes all have the same trials."""
        return self.method, self.backbone


class RateTable(_Part):
    """The tuned learning rates of an experiment."""

    track: str
    experiment: str
    metric: str
    """The score of a trial."""
    seeds: tuple[int, ...]
    """Seeds of the trials, which no experiment reports."""
    rows: tuple[TunedRow, ...]
    overrides: dict[str, Any] = Field(default_factory=dict)
    """The values that `--set` set, by key; missing if there were none."""


def metric(params: Params) -> str:
    """The metric that scores a trial, which also decides claims: re-estimated statistics."""
    return ranking_key(params.evaluation.knn_k)


def path(
    root: Path, track: str, experiment: str, overrides: Mapping[str, Any] | None = None
) -> Path:
    """The file of an experiment's table of rates under these overrides."""
    # No experiment has an @ in its name.
    under = f"@{canonical_json.checksum(overrides)[:12]}" if overrides else ""
    return root / "results" / track / "rates" / f"{experiment}{under}.json"


def write(target: Path, params: Params, experiment: str, rows: Iterable[TunedRow]) -> None:
    """Writes the table."""
    table = RateTable(
        track=params.track,
        experiment=experiment,
        metric=f"validation accuracy, {metric(params)}",
        seeds=params.sweep_seeds(experiment),
        rows=tuple(rows),
        **({"overrides": dict(params.overrides)} if params.overrides else {}),
    )
    canonical_json.write(target, canonical_json.pretty(table.as_json()))


def read(root: Path, params: Params, experiment: str) -> RateTable | None:
    """An experiment's table under the overrides of the params; None if there is no file."""
    source = path(root, params.track, experiment, params.overrides)
    table = _read(source)
    if table and table.overrides != params.overrides:
        made, asked = flags(table.overrides) or "no --set", flags(params.overrides) or "no --set"
        raise UserError(f"{source}: tuned with {made}, and the command has {asked}")
    return table


def rows_of(root: Path, params: Params, experiment: str) -> tuple[TunedRow, ...]:
    """The rows of that table; none if there is no file."""
    table = read(root, params, experiment)
    return table.rows if table else ()


def load(source: Path) -> tuple[TunedRow, ...]:
    """The rows of a table, whatever its overrides; none if there is no file."""
    table = _read(source)
    return table.rows if table else ()


def _read(source: Path) -> RateTable | None:
    try:
        text = source.read_bytes()
        if b'"family"' in text:
            raise UserError(f"{source}: a table of rates of version 1: move it away and tune again")
        raw = json.loads(text)
        return RateTable.model_validate(raw)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        said = first_error(error, RateTable, raw)
        raise UserError(f"{source}: not a table of rates ({said})") from None
    except ValueError as error:
        raise UserError(f"{source}: not a table of rates ({error})") from None


def settings(rows: Iterable[TunedRow]) -> dict[Row, Setting]:
    """The tuned learning rate and weight decay of every row."""
    return {tuned.row: (tuned.learning_rate, tuned.weight_decay) for tuned in rows}


def known(root: Path, track: str) -> dict[str, Result]:
    """The results of all trials in a track's tables, by fingerprint.

    Experiments share trials. Crashed trials are left out, so that they are tried again.
    """
    tables = sorted(path(root, track, "any").parent.glob("*.json"))
    return {
        trial.fingerprint: Result(trial.fingerprint, trial.status, trial.validation)
        for table in tables
        for tuned in load(table)
        for trial in tuned.trials
        if trial.status in FINAL
    }
