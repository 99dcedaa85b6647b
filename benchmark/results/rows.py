"""The published records of a track, row by row, each read once and checked against the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark.config.schema import Params
from benchmark.core.errors import UserError, unknown
from benchmark.planning import plan, rate_table
from benchmark.planning.cell import Row
from benchmark.results import origins as provenance
from benchmark.results import published as collect
from benchmark.results.published import Published

LEAKAGE = ("pretext_same_group", "pretext_regrouped", "swap_gap")
"""Metrics that the diagnostics of a record hold."""

LAST = 5
"""Points of a recorded curve, of fifty, that stand for its end."""


@dataclass(frozen=True)
class Step:
    """What a sweep expects one step of the learning rate away from the rate that it chose."""

    rate: float
    change: float | None
    """Of the accuracy on the validation split; null where it was not tried, or a training failed."""


@dataclass(frozen=True)
class Shelved:
    """What is there of one row of an experiment."""

    experiment: str
    row: Row
    seeds: tuple[int, ...]
    """Those that the experiment asks for."""
    records: Mapping[int, Published]
    """By seed, those that are published, failed ones included."""
    at_edge: bool
    """Whether the best rate tried was the lowest or the highest."""
    rate: float | None
    """The tuned learning rate; null where nothing was tuned."""
    steps: Mapping[str, Step]
    """By direction, `lower` and `higher`; none where nothing was tuned."""
    marks: Mapping[int, tuple[str, ...]]
    """By seed, what may be said against the provenance of its record (`provenance.published.MARKS`)."""

    @property
    def missing(self) -> tuple[int, ...]:
        """The seeds without a record."""
        return tuple(seed for seed in self.seeds if seed not in self.records)

    @property
    def failed(self) -> dict[int, str]:
        """The status of each seed that ended otherwise than well."""
        statuses = {seed: entry.record.status for seed, entry in self.records.items()}
        return {seed: status for seed, status in statuses.items() if status != "done"}


class Shelf:
    """The records of one track."""

    def __init__(self, root: Path, params: Params) -> None:
        self.root, self.params = root, params
        self._experiments: dict[str, dict[Row, Shelved]] = {}

    def rows(self, experiment: str) -> dict[Row, Shelved]:
        """Every row of an experiment.

        Raises UserError, naming it, for a record of another configuration than the params ask for, and
        where the records are not all of the same images.
        """
        if experiment not in self._experiments:
            self._experiments[experiment] = self._read(experiment)
        return self._experiments[experiment]

    def row(self, experiment: str, name: str) -> Shelved:
        """The row called `name`, e.g. `simclr-resnet-bn`."""
        found = {str(row): shelved for row, shelved in self.rows(experiment).items()}
        if name not in found:
            raise unknown(f"row of experiment {experiment}", name, found)
        return found[name]

    def values(self, shelved: Shelved, metric: str) -> dict[int, float]:
        """A metric by seed, for the seeds that have it.

        `knn`, `knn_reestimated`: test accuracy of the nearest neighbours, in 0..1, with running and with
        re-estimated statistics. `pretext`: accuracy at the pretext task, the mean of the last tenth of
        the training. `pretext_same_group`, `pretext_regrouped`, `swap_gap`: of the diagnostics, the same
        on held-out images with both views of an image in one BN group, with groups redrawn, and the
        difference.
        """
        found = {
            seed: self._value(entry, metric)
            for seed, entry in shelved.records.items()
            if entry.record.status == "done"
        }
        return {seed: value for seed, value in found.items() if value is not None}

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
        near = self.params.evaluation.knn_k[0]
        keys = {"knn": f"pooled.knn{near}", "knn_reestimated": f"pooled_reestimated.knn{near}"}
        if metric not in keys:
            raise unknown("metric", metric, (*keys, "pretext", *LEAKAGE))
        value = result.metrics.get(keys[metric])
        return None if value is None else float(value)

    def _read(self, experiment: str) -> dict[Row, Shelved]:
        params, track = self.params, self.params.track
        asked = plan.seeds(params, experiment)
        table = rate_table.load(rate_table.path(self.root, track, experiment))
        rates = rate_table.settings(table)
        lines = {
            Row(line["method"], line["backbone"], line["scheme"]): line for line in table["rows"]
        }
        where = collect.folder(self.root, track, experiment)
        published = _by_label(where)
        collect.checked(self.root, track, list(published.values()))
        origins = provenance.read(self.root, track, experiment)
        images: dict[str, str] = {}
        found = {}
        for row, seeds in asked.items():
            records = {}
            try:
                cells = plan.cells_of(params, experiment, row, seeds, rates)
            except UserError:
                cells = []  # not tuned yet, so nothing can be known of its records
            for cell in cells:
                entry = published.get(cell.label)
                if entry is None:
                    continue
                dataset = entry.record.dataset
                if cell.on(dataset).fingerprint != entry.record.fingerprint:
                    remedy = plan.train_command(track, experiment, cell.components)
                    raise UserError(
                        f"{where}: the record of {cell.label} is of another configuration than the "
                        f"params ask for: run `{remedy}`"
                    )
                images.setdefault(dataset, cell.label)
                records[cell.seed] = entry
            marks = {
                seed: provenance.marks(origins.get(entry.label), entry)
                for seed, entry in records.items()
            }
            tuned = plan.tuned_row(params, row)
            setting = rates.get(tuned)
            found[row] = Shelved(
                experiment, row, seeds, records, bool(lines.get(tuned, {}).get("at_edge")),
                setting[0] if setting else None, _steps(lines.get(tuned, {})), marks,
            )  # fmt: skip
        if len(images) > 1:
            raise UserError(f"{where} mixes {len(images)} versions of the images: {images}")
        return found


def _steps(line: Mapping[str, Any]) -> dict[str, Step]:
    """What a row of a table of rates says of one step either way."""
    found = {}
    for direction, entry in line.get("one_step", {}).items():
        here, there = line["validation"], entry["validation"]
        change = None if here is None or there is None else float(there) - float(here)
        found[direction] = Step(float(entry["learning_rate"]), change)
    return found


def _by_label(where: Path) -> dict[str, Published]:
    published: dict[str, Published] = {}
    for entry in collect.read(where):
        if entry.label in published:
            raise UserError(f"{where} has two records of {entry.label}")
        published[entry.label] = entry
    return published
