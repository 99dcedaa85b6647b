"""Writes an experiment's leaderboard."""

from __future__ import annotations

from pathlib import Path

from benchmark.analysis.leaderboard import (
    build,
)
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.planning import rate_table
from benchmark.results import origins
from benchmark.results import published as collect


def write(root: Path, params: Params, experiment: str) -> list[Path]:
    """Writes `results/<track>/<experiment>.{md,csv,json}` and `figures/<experiment>.svg` beside.

    Returns their paths. Raises UserError where a cell that the params ask for has no record.
    """
    # Both read this module's table.
    from benchmark.report.leaderboard import figure, tables

    published = collect.read(collect.folder(root, params.track, experiment))
    collect.checked(root, params.track, published, tables=False)
    table = build(
        params,
        experiment,
        published,
        rate_table.load(rate_table.path(root, params.track, experiment)),
        origins.read(root, params.track, experiment),
    )
    folder = root / "results" / params.track
    contents: dict[Path, str | bytes] = {
        folder / f"{experiment}.md": tables.markdown(table, f"figures/{experiment}.svg"),
        folder / f"{experiment}.csv": tables.csv(table),
        folder / f"{experiment}.json": tables.json(table),
        folder / "figures" / f"{experiment}.svg": figure.accuracy(table),
    }
    for path, content in contents.items():
        canonical_json.write(path, content)
    return list(contents)
