"""Takes in the records that another machine made: checks a copied store, then publishes from it.

The folder is a store, or a copy of a part of one: `cells/FINGERPRINT/record.json` with `run.json` beside
it. What else is in it (checkpoints, final states, figures) is not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError, within
from benchmark.core.wording import counted
from benchmark.planning import plan, rate_table, sweep
from benchmark.planning.cell import Cell, Row, fingerprint_of, tasks
from benchmark.planning.images import dataset_checksum
from benchmark.results import contents, origins, published
from benchmark.results.records import SCHEMA, Record, RunLog, Store

NAMED = 3
"""Files that a refusal names; the others are counted."""

RATE = ("learning_rate", "weight_decay")
"""The settings that a sweep chooses."""


class _Wrong(Exception):
    """Why a record cannot be adopted."""


@dataclass(frozen=True)
class _Planned:
    """An experiment and its cells."""

    params: Params
    experiment: str
    cells: Sequence[Cell]
    trials: Sequence[Cell]
    """Every trial that its sweep may ask for."""
    untuned: frozenset[Row]
    """Rows whose learning rate is not chosen here; their cells have the recipe's."""


@dataclass
class _Arrival:
    """A record of the folder that can be adopted."""

    record: Record
    log: RunLog
    cells: list[Cell]
    """What it is the result of: a cell of each experiment that asks for it."""
    kept: str | None = None
    """Where a record of another environment is that stays in its place."""


@dataclass
class Adopted:
    """What was adopted, as lines for a person."""

    new: int = 0
    lines: list[str] = field(default_factory=list)


def adopt(
    folder: Path,
    root: Path,
    tracks: Sequence[Params],
    experiment: str | None,
    store: Store,
) -> Adopted:
    """Checks every record of a folder, puts them into the store, and publishes whole methods.

    A record must belong to a cell or to a sweep's trial of the experiments of `tracks`, or of the one
    named `experiment`. A method is published if each of its cells has a finished record. Records of an
    environment that already have an equal record here change nothing; one of another environment here
    stays. Raises UserError, which names the files, if any record is damaged or foreign, has no
    provenance, or contradicts one of the same environment: then nothing was adopted.
    """
    planned = [found for params in tracks for found in _planned(root, params, experiment)]
    arrivals, lines = _checked(folder, root, planned, store)
    found = Adopted(lines=[*lines, *_said(arrivals)])
    for arrival in arrivals:
        known = store.record(arrival.record.fingerprint)
        if arrival.kept is None and (known is None or store.run_log(known.fingerprint) == RunLog()):
            store.put(arrival.record, arrival.log)
            found.new += known is None
    touched = {(c.track, c.experiment, c.method) for arrival in arrivals for c in arrival.cells}
    for entry in planned:
        for method in dict.fromkeys(cell.method for cell in entry.cells):
            if (entry.params.track, entry.experiment, method) in touched:
                found.lines.append(_publish(root, entry, method, store))
    return found


def _planned(root: Path, params: Params, experiment: str | None) -> list[_Planned]:
    """The experiments of a track, also those whose rows have no tuned rate yet."""
    names = params.experiments if experiment is None else (experiment,)
    with within(f"track {params.track}"):
        return [_experiment(root, params, name) for name in names]


def _experiment(root: Path, params: Params, name: str) -> _Planned:
    rows = [row for row in plan.rows(params, name) if plan.is_trained(params, row.method)]
    tuned = rate_table.settings(rate_table.rows_of(root, params, name))
    default = {plan.tuned_row(params, row): plan.default_setting(params, row) for row in rows}
    by_default = params.experiments[name].learning_rates == "default"
    reach = params.sweep.learning_rates // 2 + params.sweep.extensions
    return _Planned(
        params,
        name,
        plan.cells(params, name, default | tuned),
        [
            trial.cell
            for row in sweep.tunable(params, name)
            for trial in sweep.trials(params, name, row, range(-reach, reach + 1))
        ],
        frozenset(r for r in rows if not by_default and plan.tuned_row(params, r) not in tuned),
    )


def _checked(
    folder: Path, root: Path, planned: Sequence[_Planned], store: Store
) -> tuple[list[_Arrival], list[str]]:
    """The records of a folder, and lines on what is left there; UserError if any is wrong."""
    source = Store(folder)
    files = sorted((folder / "cells").glob("*/record.json"))
    if not files:
        raise UserError(
            f"{folder}: expected a copied store, with cells/FINGERPRINT/record.json; found none"
        )
    if (schema := source.schema()) not in (None, SCHEMA):
        raise UserError(f"{folder / 'schema'} is {schema}, expected {SCHEMA}")
    index = _Index(root, planned)
    arrivals, wrong, left = [], [], Counter[str]()
    logs: dict[str, Path] = {}
    for file in files:
        try:
            record = _read(source, file)
            if not record.is_final:
                left["crashed"] += 1
                continue
            cells, untuned = index.find(record)
            if untuned:
                left[untuned] += 1
                continue
            if said := contents.fault(record):
                raise _Wrong(f"{cells[0].name}: {said}")
            log = source.run_log(record.fingerprint)
            if origins.made("", record.checksum, log) is None:
                raise _Wrong(
                    "its run.json is missing, damaged, or has no program, machine and start"
                )
            if said := contents.foreign(record, log):
                raise _Wrong(f"{cells[0].name}: its run.json is not of this cell: {said}")
            if (other := logs.setdefault(canonical_json.checksum(log.as_json()), file)) is not file:
                raise _Wrong(f"{cells[0].name}: its run.json is also that of {other.parent}")
            arrival = _Arrival(record, log, cells)
            for cell in cells:
                index.check_listed(cell, record)
            arrival.kept = _kept(root, arrival, store)
            arrivals.append(arrival)
        except _Wrong as error:
            wrong.append(f"{file}: {error}")
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise UserError(
            f"nothing was adopted, {len(wrong)} of {counted(len(files), 'record')} cannot be: "
            f"{'; '.join(wrong[:NAMED])}{more}"
        )
    unfinished = sum(not (cell / "record.json").is_file() for cell in files[0].parents[1].iterdir())
    if unfinished:
        left["not finished"] += unfinished
    return arrivals, [f"{counted(count, 'cell')} left: {why}" for why, count in left.items()]


def _read(source: Store, file: Path) -> Record:
    """A whole record, whose fingerprint is that of its content; the folder has its name."""
    record = source.last(file.parent.name)
    if record is None:
        raise _Wrong("damaged, or not a record of this version")
    given = record.as_json()
    actual = fingerprint_of(given["cell"], given["components"], given["dataset"])
    if actual != record.fingerprint:
        raise _Wrong(f"damaged: the fingerprint of its content is {actual}")
    if record.is_final and "device" not in record.environment:
        raise _Wrong("its environment does not name the device")
    return record


def _without_rate(config: Mapping[str, Any]) -> str:
    training = config["training"]
    if training is not None:
        training = {key: value for key, value in training.items() if key not in RATE}
    return canonical_json.checksum({**config, "training": training})


class _Index:
    """Finds the planned cells that a record is the result of."""

    def __init__(self, root: Path, planned: Sequence[_Planned]) -> None:
        self.root = root
        self.params = {entry.params.track: entry.params for entry in planned}
        self.cells: dict[str, list[Cell]] = defaultdict(list)
        self.untuned = {(entry.params.track, entry.experiment): entry.untuned for entry in planned}
        for entry in planned:
            for cell in (*entry.cells, *entry.trials):
                self.cells[_without_rate(cell.config.as_json())].append(cell)
        self.datasets: dict[str, str | UserError] = {}
        self.tables: dict[tuple[str, str], dict[str, Any]] = {}

    def find(self, record: Record) -> tuple[list[Cell], str | None]:
        """The cells, or why the record waits; raises _Wrong for a record of no planned cell."""
        config = record.cell.as_json()
        like = self.cells.get(_without_rate(config), [])
        if not like:
            raise _Wrong("not a cell of a planned experiment on " + ", ".join(sorted(self.params)))
        waiting = [cell for cell in like if self._is_untuned(cell)]
        same = [cell for cell in like if cell.config == record.cell and cell not in waiting]
        if not same and waiting:
            return [], (
                f"their learning rates have not been chosen here, as by `{self._tuning(waiting[0])}`; "
                "then adopt again"
            )
        if not same:
            rates = sorted({cell.config.recipe.learning_rate for cell in like})
            given = config["training"]["learning_rate"]
            raise _Wrong(
                f"its learning rate is {given:g}, and {like[0].name} has "
                + ", ".join(f"{rate:g}" for rate in rates)
            )
        current = [cell for cell in same if dict(cell.components) == record.components]
        if not current:
            raise _Wrong(_versions(same[0], record.components))
        found = [cell for cell in current if self._dataset(cell.track) == record.dataset]
        if not found:
            here = self._dataset(current[0].track)
            raise _Wrong(
                f"made on images with the checksum {record.dataset}; those of {current[0].track}: "
                f"{here}"
            )
        return found, None

    def _is_untuned(self, cell: Cell) -> bool:
        return cell.row in self.untuned.get((cell.track, cell.experiment), ())

    def _tuning(self, cell: Cell) -> str:
        overrides = self.params[cell.track].overrides
        return plan.sweep_command(cell.track, cell.experiment, overrides)

    def _dataset(self, track: str) -> str | UserError:
        """The checksum of a track's built images, or why there is none."""
        if track not in self.datasets:
            try:
                self.datasets[track] = dataset_checksum(self.root, self.params[track])
            except UserError as error:
                self.datasets[track] = error
        return self.datasets[track]

    def check_listed(self, cell: Cell, record: Record) -> None:
        """Raises _Wrong if a published table has the checksum of another record of this environment.

        A table names the environments of a row's records and not their fingerprints. So it is asked
        only where the cell's published record is missing, as in a clone without DVC's outputs, and if
        all records of the row were made on these images in this environment.
        """
        if published.file_of(cell, self.root).is_file():
            return  # the file itself is compared
        where = cell.track, cell.experiment
        if where not in self.tables:
            self.tables[where] = published.table(self.root, *where)
        table = self.tables[where]
        try:
            row = next(
                r for r in table["rows"] if cell.row == Row(r["method"], r["backbone"], r["scheme"])
            )
            made_in = [table["environments"][place] for place in row["environments"]]
            sums = {entry["label"]: entry["sha256"] for entry in row["records"]}
            if made_in != [record.environment] or table["dataset"] != record.dataset:
                return
            text = published.document(cell, record, table.get("overrides"))
            expected, actual = sums[cell.label], canonical_json.sha256(text)
        except (KeyError, IndexError, TypeError, StopIteration):
            return  # no table, or none of this cell
        if expected != actual:
            raise _Wrong(
                f"{cell.name}: its published record has sha256 {actual}, and "
                f"{published.table_file(self.root, *where)}, made in the same environment, has "
                f"{expected}; remove that table first if other versions of the components made it"
            )


def _versions(cell: Cell, components: Mapping[str, int | str]) -> str:
    """Where the versions of a record's components are not those of its cell."""
    differ = [
        f"{name} is {components.get(name, 'missing')}, here {cell.components.get(name, 'missing')}"
        for name in sorted({*components, *cell.components})
        if components.get(name) != cell.components.get(name)
    ]
    return f"{cell.name}: other versions of components ({', '.join(differ)})"


def _kept(root: Path, arrival: _Arrival, store: Store) -> str | None:
    """Where a record of the same cell is that another environment made, which stays.

    Raises _Wrong if the same environment made another record.
    """
    new = arrival.record
    here = [(store.record(new.fingerprint), str(store.cell_dir(new.fingerprint)))]
    for cell in arrival.cells:
        file = published.file_of(cell, root)
        if file.is_file():
            here.append((published.read(file).record, str(file)))
    for old, where in here:
        if old is None or old.fingerprint != new.fingerprint or not old.is_final or old == new:
            continue
        if old.environment == new.environment:
            raise _Wrong(
                f"{arrival.cells[0].name}: not equal to {where}, which the same environment made"
            )
        return where
    return None


def _said(arrivals: Iterable[_Arrival]) -> list[str]:
    """What a reader should know of the records' origins, one line for each flaw."""
    count: Counter[str] = Counter()
    for arrival in arrivals:
        if arrival.kept is not None:
            count["not adopted: another environment has made the cell's record here"] += 1
            continue
        origin = origins.made("", arrival.record.checksum, arrival.log)
        assert origin is not None
        for mark in origin.marks:
            count[f"marked {mark}: {origins.MARKS[mark]}"] += 1
        if origin.program.image is None:
            count["made without the pinned image, as their provenance says"] += 1
    return [f"{counted(number, 'record')} {what}" for what, number in sorted(count.items())]


def _publish(root: Path, entry: _Planned, method: str, store: Store) -> str:
    """Publishes a method if all of its cells are finished; a line that says so."""
    params = entry.params
    own = [cell for cell in entry.cells if cell.method == method]
    rated = [cell for cell in own if cell.row not in entry.untuned]
    wanted = tasks(rated, dataset_checksum(root, params))
    found = {task.fingerprint: store.record(task.fingerprint) for task in wanted}
    records = {key: record for key, record in found.items() if record is not None}
    for record in published.finished([t for t in wanted if t.fingerprint not in records], root):
        records[record.fingerprint] = record
    name = f"{params.track}/{entry.experiment}/{method}"
    missing = len(own) - sum(task.fingerprint in records for task in wanted)
    if missing:
        return f"{name}: {missing} of {counted(len(own), 'cell')} missing, so it is not published"
    target = published.folder(root, params.track, entry.experiment, method)
    published.publish(wanted, records, store, target, params.overrides)
    origins.publish(root, wanted, records, store)
    return f"{name}: published with {counted(len(own), 'record')}"
