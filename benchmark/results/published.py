"""Published records: one file for each cell of an experiment, under its names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning.cell import Names, Task, fingerprint_of
from benchmark.planning.plan import train_command
from benchmark.results.records import SCHEMA, Record, Store, store, without_collection


@dataclass(frozen=True)
class Published(Names):
    """A record under the names of one experiment."""

    record: Record
    checksum: str
    """sha256 of the file."""
    content: str
    """sha256 of the record alone, without its names."""
    file: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """The values that `--set` set when it was published, by key."""


NAMES = tuple(entry.name for entry in fields(Names))


def folder(root: Path, track: str, experiment: str, method: str | None = None) -> Path:
    """The folder of the published records of an experiment, or of one of its methods."""
    path = root / "results" / track / "records" / experiment
    return path / method if method else path


def publish(
    tasks: Sequence[Task],
    records: Mapping[str, Record],
    kept: Store,
    target: Path,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Replaces the folder `target` with the records of `tasks`, all of them or none.

    `records` are by fingerprint. Each document states the `overrides` that the tasks were planned
    under. A cell that crashed is published as such; one without a record is an error. Only one process
    that uses the store publishes at a time.
    """
    with kept.lock("publish"):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(left)  # left by a publication that was killed
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
            whole, old = Path(name) / "new", Path(name) / "old"
            whole.mkdir()
            for task in tasks:
                if task.fingerprint not in records:
                    raise UserError(f"{task.cell.name} has not been trained")
                path = whole / f"{task.cell.label}.json"
                canonical_json.write(
                    path, document(task.cell, records[task.fingerprint], overrides)
                )
            # Two moves: a kill between them leaves no folder, never half of one.
            if target.exists():
                target.rename(old)
            try:
                whole.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise


def finished(tasks: Sequence[Task], root: Path) -> list[Record]:
    """The finished records of these tasks that are published below `root` under their names.

    Damaged files are skipped, since the caller rewrites them. So is a file whose checksum is not the one
    in the experiment's table.
    """
    found = []
    tables = {(task.cell.track, task.cell.experiment) for task in tasks}
    sums = {table: _sums(root, *table) for table in tables}
    for task in tasks:
        cell = task.cell
        with contextlib.suppress(FileNotFoundError, UserError):
            entry = read(file_of(cell, root))
            record, expected = entry.record, sums[cell.track, cell.experiment].get(cell.label)
            if record.fingerprint != task.fingerprint or not record.is_final:
                continue
            if expected in (None, entry.checksum):
                found.append(record)
    return found


def file_of(cell: Names, root: Path) -> Path:
    """Where a cell's record is published."""
    return folder(root, cell.track, cell.experiment, cell.method) / f"{cell.label}.json"


def document(cell: Names, record: Record, overrides: Mapping[str, Any] | None = None) -> str:
    """The text of a published record; it has the key `overrides` only if there are any."""
    stated = {"overrides": overrides} if overrides else {}
    names = {key: getattr(cell, key) for key in NAMES}
    return canonical_json.pretty({**names, **stated, "record": record.as_json()})


def files(path: Path) -> list[Path]:
    """Every published record below a folder, without what a killed `publish` left."""
    found = path.rglob("*.json")
    return sorted(
        file
        for file in found
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def read(file: Path) -> Published:
    """One published record; UserError if the file alone shows that it is damaged."""
    return _parsed(file, file.read_bytes())


def _parsed(file: Path, raw: bytes) -> Published:
    try:
        found = from_json(raw)
        names = Names(**{key: found[key] for key in NAMES})
        given, overrides = found["record"], dict(found.get("overrides", {}))
        if given.get("schema") == 1:
            raise UserError(
                f"{file}: a record of version 1, which is not read any more: remove it and train the "
                "cell again"
            )
        if given["schema"] != SCHEMA:
            raise ValueError(f"its schema is {given['schema']}")
        record = Record.model_validate(given)
        expected = record.fingerprint
        actual = fingerprint_of(given["cell"], given["components"], given["dataset"])
        label = f"{names.method}-{names.backbone}-{names.scheme}-s{names.seed}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a record ({one_line(error)})") from None
    if actual != expected:
        raise UserError(f"{file}: damaged: the fingerprint is {expected}, of its content {actual}")
    if not file.stem == names.label == label:
        raise UserError(f"{file}: damaged: it is called {names.label!r}, by its names {label!r}")
    return Published(
        **vars(names),
        record=record,
        checksum=hashlib.sha256(raw).hexdigest(),
        content=canonical_json.sha256(canonical_json.compacted(_record_text(raw))),
        file=file,
        overrides=overrides,
    )


def _record_text(raw: bytes) -> str:
    """The text of the record inside its document, which is indented by one space."""
    return raw.decode().partition('\n "record": ')[2].partition("\n }")[0] + "\n }"


def one_line(error: Exception) -> str:
    """An error in one line, with the first wrong key of a record."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def read_all(
    root: Path, track: str, experiment: str | None = None, tables: bool = True
) -> list[Published]:
    """The published records of a track, or of one experiment, by name, each compared with a copy.

    A changed digit of a result shows only in a second copy: the store's record of a training run in the
    same environment, or else, with `tables`, the checksum in the experiment's table. Raises UserError,
    naming the file, for a record that is damaged or is not the one that was measured.
    """
    top = root / "results" / track / "records"
    kept, sums = store(root), {}
    found = []
    with without_collection():
        for file in files(top / experiment if experiment else top):
            raw = file.read_bytes()
            entry = _parsed(file, raw)
            if file != file_of(entry, root):
                raise UserError(
                    f"{file}: the record of {entry.name} belongs in {file_of(entry, root)}"
                )
            if tables and entry.experiment not in sums:
                sums[entry.experiment] = _sums(root, track, entry.experiment)
            final = entry.record.is_final
            if not (final and kept.holds(entry.record.fingerprint, _record_text(raw))):
                _compare(entry, kept, sums.get(entry.experiment, {}))
            found.append(entry)
    return sorted(found, key=lambda entry: entry.name)


def _compare(entry: Published, kept: Store, sums: Mapping[str, str]) -> None:
    """Raises UserError if a record differs from the one in the store, or else from its table's."""
    file, record = entry.file, entry.record
    own = kept.record(record.fingerprint)
    if own is not None and own.environment == record.environment:
        if own != record:
            raise UserError(
                f"{file}: damaged, or made on another machine: it is not the record in "
                f"{kept.cell_dir(record.fingerprint)}; {_again(entry)} to publish that one"
            )
        return
    expected = sums.get(entry.label)
    if expected not in (None, entry.checksum):
        raise UserError(
            f"{file}: damaged, or newer than its table, which has sha256 {expected}, found "
            f"{entry.checksum}; {_again(entry)}"
        )


def _again(entry: Published) -> str:
    components = entry.record.components
    command = train_command(entry.track, entry.experiment, components, entry.overrides)
    return f"run `{command}`"


def table_file(root: Path, track: str, experiment: str) -> Path:
    """Where an experiment's leaderboard is published as JSON."""
    return root / "results" / track / f"{experiment}.json"


def table(root: Path, track: str, experiment: str) -> dict[str, Any]:
    """An experiment's published table; empty without one."""
    try:
        return dict(json.loads(table_file(root, track, experiment).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def listed(root: Path, track: str, experiment: str) -> dict[str, dict[str, Any]]:
    """What an experiment's published table says of each record, by label; empty without a table."""
    try:
        rows = table(root, track, experiment)["rows"]
        return {record["label"]: record for row in rows for record in row["records"]}
    except (KeyError, TypeError):
        return {}


def _sums(root: Path, track: str, experiment: str) -> dict[str, Any]:
    found = listed(root, track, experiment)
    return {label: record.get("sha256") for label, record in found.items()}
