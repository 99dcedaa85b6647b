"""Trains published cells again from nothing and compares the results."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.analysis.statistics import quantile
from benchmark.config.overrides import flags
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import CheckFailed, UserError
from benchmark.execution.missing import Way, Work, train_missing
from benchmark.execution.processes import Stopped
from benchmark.planning.cell import Cell, Row, tasks
from benchmark.planning.configuration import ranking_key
from benchmark.planning.images import data_folder, dataset_checksum
from benchmark.provenance.machine import processor
from benchmark.provenance.trace import first_difference
from benchmark.results import origins
from benchmark.results import published as collect
from benchmark.results.metrics import RANKING
from benchmark.results.records import Record, Store

TOLERATED = 0.99
"""Share of the differences between two seeds that the tolerance spans.

A rounding difference grows with the steps until it is as large as the difference to another seed. So a
record of another kind of machine may differ as much as one of another seed.
"""

LEAST_TOLERANCE = 0.005
"""Of kNN accuracy, if no spread over seeds is known: a few neighbours at equal distances."""


@dataclass(frozen=True)
class Verdict:
    """The comparison of one cell with its published record."""

    cell: Cell
    verdict: str
    """identical, within tolerance or different."""
    detail: str


@dataclass(frozen=True)
class _Published:
    """What is published of one cell."""

    sha256: str
    status: str
    knn: float | None
    environment: Mapping[str, Any] | None
    """Of its record, None if the row has several or the table names none."""
    tolerance: float
    """Of kNN accuracy."""
    record: Record | None
    """None if its file is not here."""
    origin: origins.Origin | None
    overrides: Mapping[str, Any]
    """The values that `--set` set when it was published."""


def verify(
    root: Path,
    params: Params,
    cells: Sequence[Cell],
    way: Callable[[Work], Way],
    device: str,
    devices: int = 1,
) -> list[Verdict]:
    """Trains `cells` in a scratch folder and compares them with the published leaderboard.

    The leaderboard's JSON has each record's checksum and accuracy. If the record and its provenance are
    here too, the first difference is named. Raises UserError for a cell that the table does not list,
    and KeyboardInterrupt on a signal.
    """
    published = _published(root, cells)
    dataset = dataset_checksum(root, params)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="benchmark-verify-") as name:
        scratch = Store(Path(name))
        try:
            wanted = tasks(cells, dataset)
            train_missing(
                wanted, scratch, data_folder(root, params.track), way, device,
                storage=params.storage, devices=devices,
            )  # fmt: skip
        except Stopped:
            raise KeyboardInterrupt from None
        for task in wanted:
            cell, entry = task.cell, scratch.last(task.fingerprint)
            if entry is None:
                raise CheckFailed(f"{cell.name} left no record")
            trace = scratch.run_log(task.fingerprint).trace
            verdicts.append(_compare(cell, entry, trace, published[cell.label]))
    return verdicts


def sample(cells: Sequence[Cell], count: int, seed: str) -> list[Cell]:
    """`count` cells of as many different rows as possible, chosen by the text `seed`."""
    shuffled = sorted(
        cells, key=lambda cell: hashlib.sha256(f"{seed}/{cell.label}".encode()).digest()
    )
    first_of_row: dict[Row, Cell] = {}
    for cell in shuffled:
        first_of_row.setdefault(cell.row, cell)
    chosen = list(first_of_row.values())
    rest = [cell for cell in shuffled if cell not in chosen]
    return (chosen + rest)[:count]


def _published(root: Path, cells: Sequence[Cell]) -> dict[str, _Published]:
    track, experiment = cells[0].track, cells[0].experiment
    path = collect.table_file(root, track, experiment)
    made = origins.read(root, track, experiment)
    wanted = {cell.label: cell for cell in cells}
    found = {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        for row in table["rows"]:
            environments = [table["environments"][place] for place in row["environments"]]
            for record in row["records"]:
                if record["label"] not in wanted:
                    continue
                cell = wanted[record["label"]]
                found[cell.label] = _Published(
                    sha256=record["sha256"],
                    status=record["status"],
                    knn=record[RANKING],
                    environment=environments[0] if len(environments) == 1 else None,
                    tolerance=_tolerance(table, cell),
                    record=_record(root, cell, record["sha256"]),
                    origin=made.get(cell.label),
                    overrides=record.get("overrides", {}),
                )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: no published leaderboard to compare with ({error})") from None
    for cell in cells:
        if cell.label not in found:
            raise UserError(f"{path} does not list {cell.label}")
    return found


def _tolerance(table: Mapping[str, Any], cell: Cell) -> float:
    """t(df) · s · √2 of the row's pool: a share TOLERATED of the pairs of seeds differs by less."""
    trained = cell.config.training is not None
    for pool in table["interval"]["pools"]:
        if (pool["metric"], pool["backbone"], pool["trained"]) == (RANKING, cell.backbone, trained):
            spread = pool["sd"] * 2**0.5
            return float(max(LEAST_TOLERANCE, quantile(pool["df"], 1 - TOLERATED) * spread))
    return LEAST_TOLERANCE


def _record(root: Path, cell: Cell, checksum: str) -> Record | None:
    """The published record; None if it is not here or has another checksum."""
    try:
        entry = collect.read(collect.file_of(cell, root))
    except (FileNotFoundError, UserError):
        return None
    return entry.record if entry.checksum == checksum else None


def _compare(cell: Cell, entry: Record, trace: Mapping[str, str], published: _Published) -> Verdict:
    # However its configuration was reached, by the file or by `--set`, the record is the same.
    found = canonical_json.sha256(collect.document(cell, entry, published.overrides))
    knn = entry.result.metrics.get(ranking_key(cell.config.evaluation.knn_k))
    if found == published.sha256:
        if _same(knn, published.knn):
            return Verdict(cell, "identical", found[:12])
        # The record has the published checksum, but the table shows another accuracy.
        return Verdict(cell, "different", f"the table says kNN {published.knn}, its record {knn}")
    where = f"; first difference: {_where(entry, trace, published)}"
    if published.overrides:
        where += f"; published with {flags(published.overrides)}"
    if entry.status != published.status:
        return Verdict(cell, "different", f"{published.status}, now {entry.status}{where}")
    if knn is None or published.knn is None:
        change = f"sha256 {published.sha256[:12]}, now {found[:12]}"
        return Verdict(cell, "different", change + where)
    change = f"kNN {published.knn:.4f}, now {knn:.4f}"
    recipe = cell.config.training
    same_bits = recipe is None or recipe.math == "deterministic"
    if same_bits and _promised(entry, published):
        return Verdict(cell, "different", f"{change} on the same kind of machine{where}")
    close = abs(knn - published.knn) <= published.tolerance
    verdict = "within tolerance" if close else "different"
    return Verdict(cell, verdict, f"{change} (tolerance {published.tolerance:.4f}){where}")


def _promised(entry: Record, published: _Published) -> bool:
    """Whether the same bits are promised: same environment and CPU vendor or GPU model."""
    if published.environment is None or entry.environment != published.environment:
        return False
    if entry.environment["device"] != "cpu":
        return True
    vendor, _ = processor()
    made = published.origin.machine.cpu_vendor if published.origin else None
    return vendor is not None and vendor == made


def _where(entry: Record, trace: Mapping[str, str], published: _Published) -> str:
    """Where two training runs of one cell first differ, as far as the published files show."""
    theirs = published.record
    if theirs is not None and theirs.dataset != entry.dataset:
        return "data"
    if theirs is not None and theirs.fingerprint != entry.fingerprint:
        return "configuration"
    stage = first_difference(trace, published.origin.trace if published.origin else {})
    if stage is not None:
        return stage.replace("_", " ")
    if theirs is None:
        return "after the first step" if published.origin and published.origin.trace else "unknown"
    if theirs.environment != entry.environment:
        changed = [
            key
            for key in sorted({*theirs.environment, *entry.environment})
            if theirs.environment.get(key) != entry.environment.get(key)
        ]
        named = f" (environment: {', '.join(changed)})"
    else:
        named = ""
    curves, now = theirs.result.curves, entry.result.curves
    for place, end in enumerate(curves.get("step", ())):
        for name in curves:
            if curves[name][place] != (now.get(name) or [None] * (place + 1))[place]:
                begin = curves["step"][place - 1] if place else 0
                return f"{name} between steps {begin:.0f} and {end:.0f}{named}"
    metrics, then = theirs.result.metrics, entry.result.metrics
    for key in metrics:
        if metrics[key] != then.get(key):
            return f"metric {key}{named}"
    return f"other results than the metrics{named}"


def _same(found: float | None, shown: float | None) -> bool:
    """Whether a table shows this number, rounded to six decimals."""
    if found is None or shown is None:
        return found is shown
    return abs(found - shown) < 1e-6
