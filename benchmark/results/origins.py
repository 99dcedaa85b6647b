"""Where published records come from: a file for each method of an experiment, under version control.

`results/<track>/provenance/<experiment>/<method>.json` names, for each record, the program, image and
machine that made it. Making the same record again, bit for bit, changes nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.core.value import Value
from benchmark.planning.cell import Task
from benchmark.provenance.machine import Machine
from benchmark.provenance.program import Program
from benchmark.results.published import Published, one_line
from benchmark.results.records import Record, RunLog, Store

SCHEMA = 1

USED = ("wall_seconds", "cpu_seconds", "energy_joules", "images_per_second", "resumed_at_step")
"""The numbers of a run log that are published."""

UNRECORDED, OVERRIDDEN = "unrecorded", "overridden"
MARKS = {
    UNRECORDED: "nothing says what made the record",
    "reconstructed": "only the commit that published the record is known, from the history",
    "unknown commit": "made by a program outside of any known commit",
    "dirty": "made with changes that are in no commit",
    "lock mismatch": "made with other package versions than uv.lock names",
    OVERRIDDEN: "published by a command that set values of params.yaml (`--set`)",
}
"""The flaws that a record's provenance can have."""


class _Facts(Value):
    """What is known of the making of one record."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    record: str
    """sha256 of the compact JSON of the record, without its names."""
    started: str | None
    """ISO 8601, UTC."""
    used: dict[str, int | float | None]
    """Times, throughput and energy, see the run log."""
    trace: dict[str, str]
    """Checksums of the first training steps."""


class Entry(_Facts):
    """The origin of one record as it is published."""

    maker: int
    """Place in `makers`."""


class Maker(Value):
    """The program and machine of some records."""

    program: Program
    machine: Machine


class Provenance(Value):
    """The origins of the records of one method: a file `provenance/<experiment>/<method>.json`."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    schema_: int = Field(alias="schema")
    """Version of this layout."""
    makers: tuple[Maker, ...]
    records: dict[str, Entry]
    """By the label of the cell."""


class Origin(_Facts):
    """The origin of the record of one cell."""

    label: str
    program: Program
    machine: Machine

    @property
    def marks(self) -> tuple[str, ...]:
        """The keys of MARKS that apply."""
        if self.program.reconstructed:
            return ("reconstructed",)
        found = {
            "unknown commit": self.program.commit is None,
            "dirty": self.program.dirty,
            "lock mismatch": self.program.as_locked is False,
        }
        return tuple(mark for mark in MARKS if found.get(mark))


def folder(root: Path, track: str, experiment: str) -> Path:
    """Where the origins of an experiment's records are published."""
    return root / "results" / track / "provenance" / experiment


def read(root: Path, track: str, experiment: str) -> dict[str, Origin]:
    """The origins of an experiment's records, by label."""
    files = sorted(folder(root, track, experiment).glob("*.json"))
    return {origin.label: origin for file in files for origin in read_one(file)}


def read_one(file: Path) -> list[Origin]:
    """The origins in one file; UserError where it is damaged."""
    try:
        found = Provenance.model_validate_json(file.read_bytes())
        return [
            Origin(label=label, **dict(found.makers[entry.maker]), **_facts(entry))
            for label, entry in found.records.items()
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{file}: damaged ({one_line(error)})") from None


def marks(origin: Origin | None, entry: Published) -> tuple[str, ...]:
    """The flaws of a record's provenance, keys of MARKS."""
    stated = (OVERRIDDEN,) if entry.overrides else ()
    if origin is None or origin.record != entry.content:
        return (UNRECORDED, *stated)
    return (*origin.marks, *stated)


def publish(root: Path, tasks: Sequence[Task], records: Mapping[str, Record], store: Store) -> None:
    """Brings the origins of one method's records up to date; `records` are by fingerprint.

    A record that stays the same keeps its origin, unless the new origin, or one of the same record
    elsewhere on the track, has fewer marks.
    """
    first = tasks[0].cell
    file = folder(root, first.track, first.experiment) / f"{first.method}.json"
    known = {origin.label: origin for origin in read_one(file)}
    elsewhere: dict[str, Origin] | None = None
    found: list[Origin] = []
    for task in tasks:
        label, checksum = task.cell.label, records[task.fingerprint].checksum
        old = known.get(label)
        if old is not None and old.record != checksum:
            old = None
        kept = _better(old, made(label, checksum, store.run_log(task.fingerprint)))
        if kept is None or kept.marks:
            elsewhere = elsewhere if elsewhere is not None else _by_record(root, first.track)
            other = elsewhere.get(checksum)
            kept = _better(kept, other and other.model_copy(update={"label": label}))
        if kept is not None:
            found.append(kept)
    write(file, found)


def write(file: Path, origins: Sequence[Origin]) -> None:
    """Writes the origins of one method's records, if they have changed."""
    makers: list[Maker] = []
    records = {}
    for origin in origins:
        maker = Maker(program=origin.program, machine=origin.machine)
        if maker not in makers:
            makers.append(maker)
        records[origin.label] = Entry(maker=makers.index(maker), **_facts(origin))
    document = Provenance(schema=SCHEMA, makers=tuple(makers), records=records)
    text = canonical_json.pretty(document.as_json())
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        canonical_json.write(file, text)


def _facts(of: _Facts) -> dict[str, Any]:
    return {key: getattr(of, key) for key in _Facts.model_fields}


def made(label: str, checksum: str, log: RunLog) -> Origin | None:
    """The origin of the record with this checksum by its run log; None if the log does not name it all.

    A published record that the store took over has no log.
    """
    if log.program is None or log.machine is None or log.started is None:
        return None
    started = datetime.fromtimestamp(log.started, UTC).isoformat(timespec="seconds")
    values = {key: getattr(log, key) for key in USED if key in log.model_fields_set}
    used = {key: None if value is None else round(value, 1) for key, value in values.items()}
    return Origin(
        label=label, record=checksum, program=log.program, machine=log.machine,
        started=started, used=used, trace=log.trace,
    )  # fmt: skip


def _better(old: Origin | None, new: Origin | None) -> Origin | None:
    known = [origin for origin in (old, new) if origin]
    return min(known, key=lambda origin: len(origin.marks), default=None)


def _by_record(root: Path, track: str) -> dict[str, Origin]:
    """The best origin that each record has anywhere on the track."""
    found: dict[str, Origin] = {}
    for file in sorted(folder(root, track, "any").parent.glob("*/*.json")):
        for origin in read_one(file):
            best = _better(found.get(origin.record), origin)
            found[origin.record] = best or origin
    return found
