"""Published records: one file for each cell of an experiment, under its names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmark import canonical
from benchmark.errors import UserError
from benchmark.plan import Cell, Names
from benchmark.records import FINAL, Store


@dataclass(frozen=True)
class Published(Names):
    """A record under the names of one experiment."""

    record: Mapping[str, Any]
    """See `benchmark.records.record`."""
    checksum: str
    """sha256 of the file."""


NAMES = tuple(field.name for field in fields(Names))


def folder(root: Path, track: str, experiment: str, method: str | None = None) -> Path:
    """Where the records of an experiment, or of one method in it, are published."""
    path = root / "results" / track / "records" / experiment
    return path / method if method else path


def publish(cells: Sequence[Cell], dataset: str, store: Store, target: Path) -> None:
    """Writes the records of `cells` into `target`, all of them or none, replacing what was there.

    A cell that crashed is published as such; one that was not trained is an error.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
        (Path(name) / "new").mkdir()
        for cell in cells:
            print_ = cell.fingerprint(dataset)
            entry = store.record(print_) or store.crash(print_)
            if entry is None:
                raise UserError(f"{cell.name} has not been trained")
            canonical.write(Path(name) / "new" / f"{cell.label}.json", document(cell, entry))
        # Two moves: a kill between them leaves no folder, never half of one.
        whole, old = Path(name) / "new", Path(name) / "old"
        if target.exists():
            target.rename(old)
        whole.rename(target)


def published(cells: Sequence[Cell], dataset: str, root: Path) -> list[Mapping[str, Any]]:
    """The finished records of these cells that are published below `root` under their names.

    A damaged file is none: whoever asks is about to write it anew.
    """
    found = []
    for cell in cells:
        with contextlib.suppress(FileNotFoundError, UserError):
            record = read_one(file_of(cell, root)).record
            if record["fingerprint"] == cell.fingerprint(dataset) and record["status"] in FINAL:
                found.append(record)
    return found


def file_of(cell: Names, root: Path) -> Path:
    """Where a cell's record is published."""
    return folder(root, cell.track, cell.experiment, cell.method) / f"{cell.label}.json"


def document(cell: Cell, record: Mapping[str, Any]) -> str:
    """The text of a published record."""
    return canonical.pretty({**{key: getattr(cell, key) for key in NAMES}, "record": record})


def read(path: Path) -> list[Published]:
    """Every published record below a folder, by name; what a killed `publish` left is not."""
    files = (
        file
        for file in path.rglob("*.json")
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    return sorted((read_one(file) for file in files), key=lambda entry: entry.name)


def read_one(file: Path) -> Published:
    """One published record."""
    raw = file.read_bytes()
    try:
        found = json.loads(raw)
        names = {key: found[key] for key in NAMES}
        record = found["record"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a record ({error})") from None
    return Published(**names, record=record, checksum=hashlib.sha256(raw).hexdigest())
