"""A project folder with made-up published records, laid out as the pipeline lays them out."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmark.config.params import parse
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.planning import plan, rate_table, sweep
from benchmark.planning.cell import Cell
from benchmark.provenance.machine import Machine
from benchmark.provenance.program import Program
from benchmark.results import origins as provenance
from benchmark.results import published
from benchmark.results.origins import Origin
from tests.helpers import tiny

PROJECT = tiny.PROJECT
MAKER = Program(
    commit="c0ffee" * 6 + "c0ff", dirty=False, lock_sha256="10c4" * 16, as_locked=True, image=None
)
ENVIRONMENT = {"device": "cpu", "threads": 1, "torch": "2.11.0"}

GRID: dict[str, Any] = {
    "methods": ["rotation", "simclr", "moco", "mae", "supervised", "untrained", "raw-pixels"],
    "backbones": ["resnet", "vit"],
    "schemes": ["bn", "ln", "gn"],
    "seeds": [0, 1],
    "learning_rates": "tuned",
}
"""The experiment of the made-up leaderboard."""

Change = Callable[[Cell, dict[str, Any]], None]
"""Alters the JSON of a record before it is written."""


def params_of(raw: Mapping[str, Any], **experiment: Any) -> Params:
    """The project's params with another grid for the leaderboard."""
    changed = copy.deepcopy(dict(raw))
    changed["experiments"]["leaderboard"] = GRID | experiment
    return parse(changed, "params.yaml")


def rates(params: Params) -> list[rate_table.TunedRow]:
    """A sweep in which one rate higher than the recipe's was best for every row."""
    table = []
    for row in sweep.tunable(params, "leaderboard"):
        rate, decay = plan.default_setting(params, row)
        table.append(
            rate_table.TunedRow.model_validate(
                {
                    "method": row.method,
                    "backbone": row.backbone,
                    "scheme": row.scheme,
                    "learning_rate": float(f"{rate * 3.1622776601683795:.3g}"),
                    "weight_decay": decay,
                    "validation": 0.71,
                    "one_step": {
                        name: {"learning_rate": float(f"{rate * factor:.3g}"), "validation": 0.7}
                        for name, factor in (("lower", 1), ("higher", 10))
                    },
                    "default_learning_rate": rate,
                    "default_weight_decay": decay,
                    "default_validation": 0.68,
                    "at_edge": row.method == "mae",
                    "trials": [],
                }
            )
        )
    return table


def result(cell: Cell) -> dict[str, Any]:
    """What a cell that went well might come to; the same cell comes to the same."""
    dice = random.Random(cell.label)
    level = {"supervised": 0.8, "untrained": 0.4, "raw-pixels": 0.5}.get(cell.method, 0.65)
    row = random.Random(cell.label.rsplit("-s", 1)[0]).uniform(-0.06, 0.06)
    near = level + row + dice.gauss(0, 0.008)
    metrics: dict[str, Any] = {"judge": "test"}
    for readout in ("pooled", "class_token") if cell.backbone == "vit" else ("pooled",):
        for suffix in ("", "_reestimated"):
            shift = 0.01 if suffix and cell.scheme == "bn" else 0.0
            metrics |= {
                f"{readout}{suffix}.knn20": near + shift,
                f"{readout}{suffix}.knn200": near + shift - 0.02,
                f"{readout}{suffix}.linear": near + shift + 0.04,
                f"{readout}{suffix}.linear.penalty_at_edge": cell.method == "rotation",
            }
            for share in cell.config.evaluation.few_labels:
                few = f"{readout}{suffix}.few_labels_{share:g}"
                metrics |= {
                    f"{few}.knn20": near * share**0.2,
                    f"{few}.linear": near * share**0.1,
                    f"{few}.linear.penalty_at_edge": cell.method == "simclr",
                }
    return {
        "parameters": 123456,
        "steps": 625 if cell.config.training else 0,
        "flops_per_step": 2_000_000_000 if cell.config.training else None,
        "first_non_finite_step": None,
        "curves": {},
        "metrics": metrics,
        "diagnostics": {
            "sections": {
                section: {"width": 64, "embedding_std": dice.uniform(0.01, 0.12)}
                for section in ("backbone", "projector")[: 1 + (cell.method in ("simclr", "moco"))]
            },
            "stability": {"relative_update": {"backbone": dice.uniform(0.001, 0.01)}},
        },
        "cause": None,
    }


def fail(entry: dict[str, Any], status: str) -> None:
    """Turns a record into that of a cell that failed."""
    entry["status"] = status
    entry["result"] |= {"metrics": {}, "diagnostics": {"stability": {}}, "steps": 10}


def publish(root: Path, params: Params, change: Change | None = None) -> None:
    """Writes the table of rates, and record and provenance of every cell of the leaderboard."""
    origins: dict[str, list[Origin]] = {}
    table = rates(params)
    rate_table.write(
        rate_table.path(root, params.track, "leaderboard"), params, "leaderboard", table
    )
    settings = rate_table.settings(table)
    for cell in plan.cells(params, "leaderboard", settings):
        entry = tiny.record(cell, result(cell), environment=ENVIRONMENT).as_json()
        if change:
            change(cell, entry)
        document = {**{key: getattr(cell, key) for key in published.NAMES}, "record": entry}
        target = published.folder(root, params.track, "leaderboard", cell.method)
        canonical_json.write(target / f"{cell.label}.json", canonical_json.pretty(document))
        origins.setdefault(cell.method, []).append(
            Origin(
                label=cell.label,
                record=canonical_json.checksum(entry),
                program=MAKER,
                machine=Machine(cpu="a CPU"),
                started=None,
                used={},
                trace={},
            )
        )
    for method, found in origins.items():
        folder = provenance.folder(root, params.track, "leaderboard")
        provenance.write(folder / f"{method}.json", found)
