"""The leaderboard's schemes by their ranks over method × backbone: descriptive, never a verdict."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.analysis.ranks import Ranks, critical_difference
from benchmark.core.errors import UserError

FIGURE = "figures/claims/ranks.svg"


def ranking(folder: Path) -> Ranks | None:
    """Ranks by kNN accuracy in `folder`/leaderboard.json, each method and backbone a block.

    Controls and rows of which a seed failed are left out. None without a leaderboard, and where it
    has fewer than three schemes or blocks. Raises UserError for a file that is no leaderboard.
    """
    path = folder / "leaderboard.json"
    if not path.is_file():
        return None
    blocks: dict[tuple[str, str], dict[str, float]] = {}
    try:
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            if row["complete"] and not row["control"]:
                block = blocks.setdefault((row["method"], row["backbone"]), {})
                block[str(row["scheme"])] = float(row["knn"]["mean"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a leaderboard ({error})") from None
    return critical_difference(list(blocks.values()))
