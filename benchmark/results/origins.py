"""Where published records come from: a file for each method of an experiment, under version control.

`results/<track>/provenance/<experiment>/<method>.json` names, for each record, the program, image and
machine that made it. Whoever makes the same record again, to the bit, changes nothing there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning.cell import Task
from benchmark.results.published import Published
from benchmark.results.records import Record, Store

SCHEMA = 1

USED = ("wall_seconds", "cpu_seconds", "energy_joules", "images_per_second", "resumed_at_step")
"""What is kept of a run log beside program, machine and trace."""

UNRECORDED = "unrecorded"
MARKS = {
    UNRECORDED: "nothing says what made the record",
    "reconstructed": "only the commit that published the record is known, from the history",
    "unknown commit": "made by a program outside of any known commit",
    "dirty": "made with changes that are in no commit",
    "lock mismatch": "made with other package versions than uv.lock names",
}
"""What may be said against a record's provenance."""


@dataclass(frozen=True)
class Origin:
    """Where one record comes from."""

    label: str
    record: str
    """sha256 of the record's content (`canonical_json.checksum`), whatever its names."""
    program: Mapping[str, Any]
    """See `program.program`; of a reconstructed origin `commit` and `lock_sha256` alone."""
    machine: Mapping[str, Any]
    """See `machine.machine`; empty where it is reconstructed."""
    started: str | None
    """ISO 8601, UTC."""
    used: Mapping[str, float | None]
    trace: Mapping[str, str]

    @property
    def marks(self) -> tuple[str, ...]:
        """The keys of MARKS that hold."""
        if self.program.get("reconstructed"):
            return ("reconstructed",)
        found = {
            "unknown commit": self.program.get("commit") is None,
            "dirty": bool(self.program.get("dirty")),
            "lock mismatch": self.program.get("as_locked") is False,
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
        found = json.loads(file.read_text(encoding="utf-8"))
        makers = found["makers"]
        return [
            Origin(
                label=label,
                record=str(entry["record"]),
                program=makers[entry["maker"]]["program"],
                machine=makers[entry["maker"]]["machine"],
                started=entry["started"],
                used=entry["used"],
                trace=entry["trace"],
            )
            for label, entry in found["records"].items()
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{file}: damaged ({error})") from None


def marks(origin: Origin | None, entry: Published) -> tuple[str, ...]:
    """What may be said against a record's provenance, keys of MARKS."""
    if origin is None or origin.record != entry.content:
        return (UNRECORDED,)
    return origin.marks


def publish(root: Path, tasks: Sequence[Task], records: Mapping[str, Record], store: Store) -> None:
    """Brings the origins of one method's records up to date; `records` are by fingerprint.

    A record that stays the same keeps its origin, unless there is more to say against that than against
    the new one, or than against the one that the same record has elsewhere on the track.
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
        kept = _better(old, _made(label, checksum, store.run_log(task.fingerprint)))
        if kept is None or kept.marks:
            elsewhere = elsewhere if elsewhere is not None else _by_record(root, first.track)
            other = elsewhere.get(checksum)
            kept = _better(kept, other and replace(other, label=label))
        if kept is not None:
            found.append(kept)
    write(file, found)


def write(file: Path, origins: Sequence[Origin]) -> None:
    """Writes the origins of one method's records; a file that says the same already is left alone."""
    makers: list[dict[str, Any]] = []
    records = {}
    for origin in origins:
        maker = {"program": dict(origin.program), "machine": dict(origin.machine)}
        if maker not in makers:
            makers.append(maker)
        records[origin.label] = {
            "record": origin.record,
            "maker": makers.index(maker),
            "started": origin.started,
            "used": dict(origin.used),
            "trace": dict(origin.trace),
        }
    text = canonical_json.pretty({"schema": SCHEMA, "makers": makers, "records": records})
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        canonical_json.write(file, text)


def _made(label: str, checksum: str, log: Mapping[str, Any]) -> Origin | None:
    """The origin that a run log tells of, None where it tells of none (an adopted record)."""
    if "program" not in log:
        return None
    started = datetime.fromtimestamp(log["started"], UTC).isoformat(timespec="seconds")
    return Origin(
        label, checksum, log["program"], log["machine"], started,
        {key: _rounded(log[key]) for key in USED if key in log}, log.get("trace", {}),
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _better(old: Origin | None, new: Origin | None) -> Origin | None:
    if old is None or new is None:
        return old or new
    return new if len(new.marks) < len(old.marks) else old


def _by_record(root: Path, track: str) -> dict[str, Origin]:
    """The best origin that each record has anywhere on the track."""
    found: dict[str, Origin] = {}
    for file in sorted(folder(root, track, "any").parent.glob("*/*.json")):
        for origin in read_one(file):
            best = _better(found.get(origin.record), origin)
            found[origin.record] = best or origin
    return found
