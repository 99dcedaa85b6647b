"""The leaderboard's schemes by their ranks over method × backbone: a picture, never a verdict."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.analysis.ranks import Ranks, critical_difference
from benchmark.core.errors import UserError
from benchmark.report.claims.formatting import table
from benchmark.report.leaderboard.tables import escape

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


def section(ranks: Ranks) -> list[str]:
    """What the page says of them."""
    groups = "; ".join(", ".join(group) for group in ranks.groups)
    return [
        "## Ranks of the leaderboard's schemes",
        f"Average ranks (1 is the best) over {ranks.blocks} pairs of method and backbone. Friedman's "
        f"test gives p = {ranks.p:.3f}; ranks further apart than {ranks.critical:.2f} differ by "
        f"Nemenyi's. Not told apart: {escape(groups)}. This is descriptive and decides no verdict.",
        table(
            ["scheme", "average rank"],
            [[escape(name), f"{rank:.2f}"] for name, rank in ranks.average.items()],
        ),
        f"![Average ranks of the schemes]({FIGURE})",
    ]
