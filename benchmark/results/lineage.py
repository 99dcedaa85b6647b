"""Traces a published record to the commit, image and machine that made it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.config.overrides import flags
from benchmark.core.errors import CheckFailed, UserError
from benchmark.planning.cell import Cell
from benchmark.results import origins, published
from benchmark.results.origins import MARKS, Origin


def lines(root: Path, cell: Cell) -> Iterator[str]:
    """What is known of a cell, as lines for a person.

    Raises UserError if the published table does not list the cell, and CheckFailed, at the end, if the
    table, record and provenance contradict each other.
    """
    table = published.table_file(root, cell.track, cell.experiment)
    line = published.listed(root, cell.track, cell.experiment).get(cell.label)
    if line is None:
        raise UserError(f"{table} does not list {cell.label}")
    origin = origins.read(root, cell.track, cell.experiment).get(cell.label)
    wrong = []
    yield f"cell         {cell.name}"
    knn, checksum = line["knn_reestimated"], line["sha256"]
    yield f"table        {table.relative_to(root)}: kNN {knn}, sha256 {checksum}"
    file = published.file_of(cell, root)
    if file.is_file():
        entry = published.read(file)
        same = entry.checksum == checksum
        yield f"record       {file.relative_to(root)}: {'as the table says' if same else 'ANOTHER'}"
        if not same:
            wrong.append("the record is not the one that the table lists")
        yield f"fingerprint  {entry.record.fingerprint}"
        yield f"dataset      sha256 {entry.record.dataset}"
        yield f"components   {_facts(entry.record.components)}"
        yield f"environment  {_facts(entry.record.environment)}"
        if entry.overrides:
            yield f"overridden   {flags(entry.overrides)}"
        if origin is not None and origin.record != entry.content:
            wrong.append("the provenance is of another record")
    else:
        yield f"record       {file.relative_to(root)} is not here: `uv run dvc repro` makes it"
    if origin is None:
        yield f"provenance   {origins.UNRECORDED}: {MARKS[origins.UNRECORDED]}"
    else:
        yield from _origin(origin)
    if wrong:
        raise CheckFailed(f"{cell.name}: {'; '.join(wrong)}")


def _origin(origin: Origin) -> Iterator[str]:
    program, machine = origin.program, origin.machine
    tree = {None: "", False: ", clean tree", True: ", CHANGED since"}[program.dirty]
    yield f"commit       {program.commit or 'unknown'}{tree}"
    locked = {None: "", True: ", as installed", False: ", NOT AS INSTALLED"}
    yield f"uv.lock      sha256 {program.lock_sha256}{locked[program.as_locked]}"
    image = program.image.model_dump() if program.image else None
    yield f"image        {_facts(image) if image else 'none'}"
    for key, value in sorted(machine.model_dump(exclude_unset=True).items()):
        yield f"{key:12} {_facts(value) if isinstance(value, dict) else value}"
    yield f"started      {origin.started}"
    for key, value in sorted(origin.used.items()):
        yield f"{key:12} {'unknown' if value is None else value}"
    for stage, checksum in origin.trace.items():
        yield f"{stage:12} sha256 {checksum}"
    for mark in origin.marks:
        yield f"MARKED       {mark}: {MARKS[mark]}"


def _facts(facts: Any) -> str:
    return ", ".join(f"{key} {facts[key]}" for key in sorted(facts))
