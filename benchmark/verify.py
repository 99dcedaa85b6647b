"""Trains published cells again from nothing and compares the results."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import collect
from benchmark.errors import CheckFailed, UserError
from benchmark.launch import Stopped, train_missing
from benchmark.paths import data_folder, dataset_checksum
from benchmark.plan import Cell
from benchmark.records import Store
from benchmark.schema import Params

TOLERANCE = 0.05
"""Largest difference of kNN accuracy that another kind of machine may make.

A change of rounding acts like a change of seed; five points are more than twice the spread between
seeds that the embedded track shows.
"""


@dataclass(frozen=True)
class Verdict:
    """What became of one cell."""

    cell: Cell
    verdict: str
    """identical, within tolerance or different."""
    detail: str


def verify(
    root: Path, params: Params, cells: Sequence[Cell], jobs: int | None, device: str
) -> list[Verdict]:
    """Trains `cells` in a scratch folder and compares them with the published leaderboard.

    What is published is the leaderboard's JSON: each record's checksum and accuracy. Raises
    UserError for a cell that it does not list, KeyboardInterrupt on a signal.
    """
    published = _published(root, cells)
    dataset = dataset_checksum(root, params)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="benchmark-verify-") as name:
        scratch = Store(Path(name))
        try:
            train_missing(cells, scratch, data_folder(root, params.track), dataset, jobs, device)
        except Stopped:
            raise KeyboardInterrupt from None
        for cell in cells:
            print_ = cell.fingerprint(dataset)
            entry = scratch.record(print_) or scratch.crash(print_)
            if entry is None:
                raise CheckFailed(f"{cell.name} left no record")
            verdicts.append(_compare(cell, entry, published[cell.label]))
    return verdicts


def sample(cells: Sequence[Cell], count: int, draw: str) -> list[Cell]:
    """`count` cells chosen by the text `draw`, of as many different rows as there are."""
    shuffled = sorted(
        cells, key=lambda cell: hashlib.sha256(f"{draw}/{cell.label}".encode()).digest()
    )
    first_of_row: dict[tuple[str, str, str], Cell] = {}
    for cell in shuffled:
        first_of_row.setdefault((cell.method, cell.family, cell.scheme), cell)
    chosen = list(first_of_row.values())
    rest = [cell for cell in shuffled if cell not in chosen]
    return (chosen + rest)[:count]


def _published(root: Path, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    track, experiment = cells[0].track, cells[0].experiment
    path = root / "results" / track / f"{experiment}.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        found = {record["label"]: record for row in table["rows"] for record in row["records"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no published leaderboard to compare with ({error})") from None
    for cell in cells:
        if cell.label not in found:
            raise UserError(f"{path} does not list {cell.label}")
    return found


def _compare(cell: Cell, entry: dict[str, Any], published: dict[str, Any]) -> Verdict:
    found = hashlib.sha256(collect.document(cell, entry).encode()).hexdigest()
    knn = entry["result"]["metrics"].get(f"pooled.knn{cell.config['evaluation']['neighbours'][0]}")
    if entry["status"] != published["status"]:
        return Verdict(cell, "different", f"{published['status']}, now {entry['status']}")
    if found == published["sha256"]:
        if _same(knn, published["knn"]):
            return Verdict(cell, "identical", found[:12])
        # The record is the published one, but the table beside its checksum says something else.
        return Verdict(
            cell, "different", f"the table says kNN {published['knn']}, its record {knn}"
        )
    if knn is None or published["knn"] is None:
        return Verdict(cell, "different", f"sha256 {published['sha256'][:12]}, now {found[:12]}")
    close = abs(knn - published["knn"]) <= TOLERANCE
    verdict = "within tolerance" if close else "different"
    return Verdict(cell, verdict, f"kNN {published['knn']:.4f}, now {knn:.4f}")


def _same(found: float | None, shown: float | None) -> bool:
    """Whether a table shows a number, rounded to its six decimals."""
    if found is None or shown is None:
        return found is shown
    return abs(found - shown) < 1e-6
