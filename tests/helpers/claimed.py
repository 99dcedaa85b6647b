"""A project folder with planted records of small experiments, as the pipeline would leave them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmark.config import params
from benchmark.core import canonical_json
from benchmark.planning import plan, rate_table, sweep
from benchmark.results import published
from benchmark.results.rows import RecordIndex
from tests.helpers import tiny

Planted = float | str
"""An accuracy in 0..1, or the status of a training that failed."""


def tree(**experiments: Any) -> dict[str, Any]:
    """Tiny params with these experiments alone, and two recipes like SimCLR."""
    found = tiny.raw()
    found["methods"] |= {
        "simclr-batch-16": {"extends": "simclr", "batch_size": 16},
        "simclr-cold": {"extends": "simclr", "options": {"temperature": 0.05}},
    }
    found["experiments"] = experiments
    return found


def grid(*schemes: str, **changes: Any) -> dict[str, Any]:
    """An experiment of SimCLR on a ResNet with three seeds, and of the backbone as initialised."""
    found = {"methods": ["simclr"], "backbones": ["resnet"], "schemes": list(schemes)}
    controls = [
        {"methods": [method], "backbones": ["resnet"], "schemes": ["bn"]}
        for method in ("untrained", "raw-pixels")
    ]
    return found | {"seeds": [0, 1, 2], "learning_rates": "default", "also": controls} | changes


def stand(root: Path, found: Mapping[str, Any]) -> RecordIndex:
    """Writes a project's params and its claims, and opens the index of its records."""
    tiny.write_params(root, dict(found))
    shutil.copy(tiny.PROJECT / "claims.yaml", root)
    return RecordIndex(root, params.read(root / "params.yaml"))


def plant(
    index: RecordIndex,
    experiment: str,
    rows: Mapping[str, Sequence[Planted]],
    pretext: Mapping[str, float] | None = None,
    gaps: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Publishes a record for each seed of a row that something is given for, in their order.

    `gaps` are a row's swap gaps after training and before it; a small part differs by seed.
    """
    track = index.params.track
    rates = rate_table.settings(rate_table.load(rate_table.path(index.root, track, experiment)))
    for row, seeds in plan.seeds(index.params, experiment).items():
        cells = plan.cells_of(index.params, experiment, row, seeds, rates)
        for cell, value in zip(cells, rows.get(str(row), ()), strict=False):
            result: dict[str, Any] = {"metrics": {}, "diagnostics": {}, "curves": {}}
            if isinstance(value, float):
                result["metrics"] = {"pooled.knn5": value - 0.01, "pooled_reestimated.knn5": value}
                result["curves"] = {"pretext": [(pretext or {}).get(str(row))] * 50}
                trained, initial = (gaps or {}).get(str(row), (None, None))
                if trained is not None:
                    trained += 0.01 * cell.seed
                leakage = {"swap_gap": trained, "swap_gap_initial": initial}
                result["diagnostics"] = {"sections": {}, "leakage": leakage}
            status = value if isinstance(value, str) else "done"
            entry = tiny.record(cell, result, status)
            target = published.folder(index.root, track, experiment, cell.method)
            canonical_json.write(target / f"{cell.label}.json", published.document(cell, entry))


def tune(index: RecordIndex, experiment: str, edge: str) -> None:
    """Writes the table of rates of an experiment, the recipes' own; one row's lies at the edge."""
    table = []
    for row in sweep.tunable(index.params, experiment):
        rate, decay = plan.default_setting(index.params, row)
        names = {"method": row.method, "backbone": row.backbone, "scheme": row.scheme}
        unknown = {"learning_rate": rate, "validation": None}
        found: dict[str, Any] = {
            "learning_rate": rate,
            "weight_decay": decay,
            "validation": None,
            "one_step": {"lower": unknown, "higher": unknown},
            "default_learning_rate": rate,
            "default_weight_decay": decay,
            "default_validation": None,
            "at_edge": str(row) == edge,
            "trials": [],
        }
        table.append(rate_table.TunedRow.model_validate(names | found))
    rate_table.write(
        rate_table.path(index.root, "mini", experiment), index.params, experiment, table
    )


def yaml(path: Path, content: Any) -> None:
    """Writes a YAML file."""
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(content, file)
