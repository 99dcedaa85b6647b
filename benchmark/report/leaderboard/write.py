"""Writes an experiment's leaderboard."""

from __future__ import annotations

from pathlib import Path

from benchmark.analysis.leaderboard import build
from benchmark.config.schema import Params
from benchmark.core import canonical_json


def write(root: Path, params: Params, experiment: str) -> list[Path]:
    """Writes `results/<track>/<experiment>.{md,csv,json}` and `figures/<experiment>.svg`.

    Returns their paths. Raises UserError if a cell that the params ask for has no record.
    """
    # The figure imports matplotlib.
    from benchmark.report.leaderboard import csv, document, figure, page

    table = build(root, params, experiment)
    folder = root / "results" / params.track
    contents: dict[Path, str | bytes] = {
        folder / f"{experiment}.md": page.markdown(table, f"figures/{experiment}.svg"),
        folder / f"{experiment}.csv": csv.csv(table),
        folder / f"{experiment}.json": document.json(table),
        folder / "figures" / f"{experiment}.svg": figure.accuracy(table),
    }
    for path, content in contents.items():
        canonical_json.write(path, content)
    return list(contents)
