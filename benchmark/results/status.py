"""The state of planned cells and what they are expected to cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.planning.cell import Cell, Row
from benchmark.results import published
from benchmark.results.records import Store


def table(
    cells: Sequence[Cell],
    dataset: str | None,
    untuned: Collection[Row],
    store: Store,
    root: Path,
) -> list[dict[str, Any]]:
    """One entry for each cell: name, fingerprint, state and the seconds it took or should take.

    States: `done`, which includes `diverged`; `out-of-memory`; `crashed`; `stale` if the record that is
    published under the name has another fingerprint; `missing`; `untuned` for a row of `untuned`, whose
    learning rate and so whose fingerprint is not known; `unknown` before the images are built. The
    seconds come from the run logs of this machine: the cell's own, or the median of the cells of the
    same method and backbone, or None. A stale entry also has the `overrides` of its record, if any.
    """
    entries: list[dict[str, Any]] = []
    spent: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        fingerprint = cell.on(dataset).fingerprint if dataset else None
        state, seconds = "unknown", None
        overrides: Mapping[str, Any] = {}
        if cell.row in untuned:
            state, fingerprint = "untuned", None
        elif fingerprint is not None:
            state, overrides = _state(cell, fingerprint, store, root)
            if state == "done" and (seconds := store.run_log(fingerprint).wall_seconds):
                spent.setdefault((cell.method, cell.backbone), []).append(seconds)
        entry: dict[str, Any] = {
            "cell": cell.name,
            "fingerprint": fingerprint,
            "state": state,
            "seconds": seconds,
        }
        entries.append(entry | ({"overrides": overrides} if overrides else {}))
    for entry, cell in zip(entries, cells, strict=True):
        if entry["seconds"] is None and (similar := spent.get((cell.method, cell.backbone))):
            entry["seconds"] = median(similar)
    return entries


def _state(cell: Cell, fingerprint: str, store: Store, root: Path) -> tuple[str, Mapping[str, Any]]:
    """The state and, of a stale record, its overrides."""
    entry = store.last(fingerprint)
    if entry is None:
        file = published.file_of(cell, root)
        if not file.is_file():
            return "missing", {}
        found = published.read(file)
        entry = found.record
        if entry.fingerprint != fingerprint:
            return "stale", found.overrides
    return "done" if entry.status == "diverged" else entry.status, {}
