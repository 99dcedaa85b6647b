"""The published records of a track by row, each read once and checked against the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmark.config.overrides import flags
from benchmark.config.schema import Params
from benchmark.core.errors import UserError, unknown
from benchmark.planning import plan, rate_table
from benchmark.planning.cell import Cell, Row
from benchmark.planning.configuration import ranking_key
from benchmark.results import origins as provenance
from benchmark.results import published as collect
from benchmark.results.metrics import RANKING
from benchmark.results.origins import Origin
from benchmark.results.published import Published

LEAKAGE = ("pretext_same_group", "pretext_regrouped", "swap_gap")
"""Metrics that the diagnostics of a record hold."""

LAST = 5
"""Points at the end of a recorded curve (of fifty) whose mean is its final value."""


@dataclass(frozen=True)
class Step:
    """What a sweep expects one step of the learning rate away from the rate that it chose."""

    rate: float
    change: float | None
    """Of validation accuracy; None if the rate was not tried or a run failed."""


@dataclass(frozen=True)
class RowRecords:
    """The published records of one row of an experiment."""

    track: str
    experiment: str
    row: Row
    seeds: tuple[int, ...]
    """Those that the experiment asks for."""
    records: Mapping[int, Published]
    """The published ones by seed, failed ones included."""
    origins: Mapping[int, Origin | None]
    """By seed the origin of the record; None if it is not known."""
    tuning: rate_table.TunedRow | None
    """Its row of the table of rates; None if nothing was tuned."""
    untuned: UserError | None
    """The error if its tuned rate is missing: then its records cannot be checked."""

    @property
    def at_edge(self) -> bool:
        """Whether the best rate tried was the lowest or the highest."""
        return self.tuning is not None and self.tuning.at_edge

    @property
    def rate(self) -> float | None:
        """The tuned learning rate; None if nothing was tuned."""
        return self.tuning.learning_rate if self.tuning else None

    @property
    def steps(self) -> dict[str, Step]:
        """By direction, `lower` and `higher`; empty if nothing was tuned."""
        if self.tuning is None:
            return {}
        found = {}
        for direction, entry in self.tuning.one_step:
            here, there = self.tuning.validation, entry.validation
            change = None if here is None or there is None else there - here
            found[direction] = Step(entry.learning_rate, change)
        return found

    @property
    def marks(self) -> dict[int, tuple[str, ...]]:
        """By seed, the flaws of the provenance of its record, keys of `origins.MARKS`."""
        return {
            seed: provenance.marks(self.origins[seed], entry)
            for seed, entry in self.records.items()
        }

    @property
    def name(self) -> str:
        """E.g. `mini/leaderboard/simclr-resnet-bn`."""
        return f"{self.track}/{self.experiment}/{self.row}"

    @property
    def missing(self) -> tuple[int, ...]:
        """The seeds without a record."""
        return tuple(seed for seed in self.seeds if seed not in self.records)

    @property
    def failed(self) -> dict[int, str]:
        """The status of each seed that failed."""
        statuses = {seed: entry.record.status for seed, entry in self.records.items()}
        return {seed: status for seed, status in statuses.items() if status != "done"}


class RecordIndex:
    """The records of one track."""

    def __init__(self, root: Path, params: Params, *, tables: bool = True) -> None:
        """With `tables` a record is also compared with its checksum in the experiment's table."""
        self.root, self.params, self.tables = root, params, tables
        self._experiments: dict[str, dict[Row, RowRecords]] = {}

    def rows(self, experiment: str) -> dict[Row, RowRecords]:
        """Every row of an experiment.

        Raises UserError if a record has another configuration than the params ask for, or if the records
        are of several versions of the images.
        """
        if experiment not in self._experiments:
            self._experiments[experiment] = self._read(experiment)
        return self._experiments[experiment]

    def has(self, experiment: str, names: Iterable[str]) -> bool:
        """Whether the experiment asks for all rows of these names."""
        return {str(row) for row in self.rows(experiment)}.issuperset(names)

    def row(self, experiment: str, name: str) -> RowRecords:
        """The row called `name`, e.g. `simclr-resnet-bn`."""
        found = {str(row): own for row, own in self.rows(experiment).items()}
        if name not in found:
            raise unknown(f"row of experiment {experiment}", name, found)
        return found[name]

    def values(self, own: RowRecords, metric: str) -> dict[int, float]:
        """A metric by seed, for the seeds that have it.

        `knn`, `knn_reestimated`: test accuracy of the nearest neighbours, in 0..1, with running and with
        re-estimated statistics. `pretext`: accuracy at the pretext task, the mean of the last tenth of
        the training run. `pretext_same_group`, `pretext_regrouped`, `swap_gap`: the same, from the
        diagnostics, on held-out images with both views of an image in one BN group, with groups redrawn,
        and the difference.
        """
        found = {
            seed: self._value(entry, metric)
            for seed, entry in own.records.items()
            if entry.record.status == "done"
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, own: RowRecords, metric: str) -> float | None:
        """The mean of a metric over the seeds of a row; None if a seed has no value."""
        values = list(self.values(own, metric).values())
        return fmean(values) if values and len(values) == len(own.seeds) else None

    def best(self, rows: Iterable[RowRecords], metric: str) -> tuple[RowRecords, float] | None:
        """The row with the highest mean, and the mean; None if no row has one."""
        means = [(row, value) for row in rows if (value := self.mean(row, metric)) is not None]
        return max(means, key=lambda found: found[1], default=None)

    def _value(self, entry: Published, metric: str) -> float | None:
        result = entry.record.result
        if metric == "pretext":
            curve = result.curves.get("pretext", ())[-LAST:]
            kept = [value for value in curve if value is not None]
            return fmean(kept) if kept and len(kept) == len(curve) else None
        if metric in LEAKAGE:
            measured = result.diagnostics.get("leakage") or {}
            found = measured.get(metric)
            return None if found is None else float(found)
        numbers = self.params.evaluation.knn_k
        keys = {"knn": f"pooled.knn{numbers[0]}", RANKING: ranking_key(numbers)}
        if metric not in keys:
            raise unknown("metric", metric, (*keys, "pretext", *LEAKAGE))
        value = result.metrics.get(keys[metric])
        return None if value is None else float(value)

    def _read(self, experiment: str) -> dict[Row, RowRecords]:
        params, track = self.params, self.params.track
        asked = plan.seeds(params, experiment)
        table = rate_table.rows_of(self.root, params, experiment)
        rates = rate_table.settings(table)
        tuned = {entry.row: entry for entry in table}
        where = collect.folder(self.root, track, experiment)
        remedy = f"run `{plan.train_command(track, experiment, (), params.overrides)}`"
        entries = collect.read_all(self.root, track, experiment, self.tables)
        published = {entry.label: entry for entry in entries}
        origins = provenance.read(self.root, track, experiment)
        images: dict[str, str] = {}
        found = {}
        for row, seeds in asked.items():
            records, cells, untuned = {}, [], None
            try:
                cells = plan.cells_of(params, experiment, row, seeds, rates)
            except UserError as error:
                untuned = error
            for cell in (cell for cell in cells if cell.label in published):
                entry = published[cell.label]
                dataset = entry.record.dataset
                if cell.on(dataset).fingerprint != entry.record.fingerprint:
                    raise _other(where, cell, entry, params)
                images.setdefault(dataset, cell.label)
                records[cell.seed] = entry
            made = {seed: origins.get(entry.label) for seed, entry in records.items()}
            tuning = tuned.get(plan.tuned_row(params, row))
            found[row] = RowRecords(track, experiment, row, seeds, records, made, tuning, untuned)
        if len(images) > 1:
            raise UserError(
                f"{where} mixes {len(images)} versions of the images {images}: {remedy}"
            )
        return found


def _other(where: Path, cell: Cell, entry: Published, params: Params) -> UserError:
    """The error for a record of another configuration than that of its cell."""
    again = plan.train_command(cell.track, cell.experiment, cell.components, params.overrides)
    asked = f" with `{flags(params.overrides)}`" if params.overrides else ""
    made = ""
    if entry.overrides:
        made = f"; it was published with `{flags(entry.overrides)}`: repeat that, or"
    return UserError(
        f"{where}: the record of {cell.label} is of another configuration than the params{asked} ask "
        f"for{made or ':'} run `{again}`"
    )
