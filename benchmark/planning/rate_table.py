"""Tables of tuned learning rates: `results/<track>/rates/<experiment>.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning.cell import FINAL, Row
from benchmark.planning.configuration import ranking_key

Setting = tuple[float, float]
"""Learning rate and weight decay."""


@dataclass(frozen=True)
class Result:
    """What a trial came to."""

    status: str
    score: float | None
    """Validation accuracy (nearest neighbours, the first k), null where the cell has none."""


def metric(params: Params) -> str:
    """The metric that judges a trial: the one that judges claims, with re-estimated statistics."""
    return ranking_key(params.evaluation.knn_k)


def path(root: Path, track: str, experiment: str) -> Path:
    """Where an experiment's table of rates is."""
    return root / "results" / track / "rates" / f"{experiment}.json"


def write(
    target: Path,
    params: Params,
    experiment: str,
    table: list[dict[str, Any]],
    fingerprints: Mapping[str, str],
) -> None:
    """Writes the table, each trial with its fingerprint."""
    for row in table:
        for trial in row["trials"]:
            trial["fingerprint"] = fingerprints[trial["label"]]
    document = {
        "track": params.track,
        "experiment": experiment,
        "metric": f"validation accuracy, {metric(params)}",
        "seeds": list(params.sweep.seeds),
        "rows": table,
    }
    canonical_json.write(target, canonical_json.pretty(document))


def load(source: Path) -> dict[str, Any]:
    """The table as written, or an empty one."""
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"rows": []}
    except ValueError as error:
        raise UserError(f"{source}: not a table of rates ({error})") from None
    if any("family" in row for row in found["rows"]):
        raise UserError(f"{source}: a table of rates of version 1: move it away and tune again")
    return dict(found)


def settings(table: Mapping[str, Any]) -> dict[Row, Setting]:
    """The tuned learning rate and weight decay of every row."""
    return {
        Row(row["method"], row["backbone"], row["scheme"]): (
            row["learning_rate"],
            row["weight_decay"],
        )
        for row in table["rows"]
    }


def known(root: Path, track: str) -> dict[str, Result]:
    """The results of all trials in a track's tables, by fingerprint.

    Experiments share trials. Those that crashed are to be tried again.
    """
    tables = sorted(path(root, track, "any").parent.glob("*.json"))
    return {
        trial["fingerprint"]: Result(trial["status"], trial["validation"])
        for table in tables
        for row in load(table)["rows"]
        for trial in row["trials"]
        if trial["status"] in FINAL
    }
