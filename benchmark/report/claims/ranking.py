"""The leaderboard's schemes by their ranks over method × backbone: descriptive, never a verdict."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.analysis.ranks import Ranks, critical_difference
from benchmark.core.errors import UserError
from benchmark.report import drawing
from benchmark.report.drawing import WIDTH

RANKS_FIGURE = "figures/claims/ranks.svg"

LINE = 0.24
"""Inches between two bars or names."""

ABOVE = 2.3
"""Lines above the axis, for its ticks and the critical difference."""


def ranking(folder: Path) -> Ranks | None:
    """Ranks by kNN accuracy in `folder`/leaderboard.json, each method and backbone a block.

    Controls and rows of which a seed failed are left out. None without a leaderboard, and if it
    has fewer than three schemes or blocks. Raises UserError for a file that is not a leaderboard.
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


def diagram(ranks: Ranks) -> bytes:
    """The critical-difference diagram as SVG: bars join the treatments that do not differ."""
    import scikit_posthocs
    from matplotlib.figure import Figure
    from pandas import DataFrame

    names = list(ranks.average)
    together = [[any({a, b} <= set(g) for g in ranks.groups) for b in names] for a in names]
    bars = sum(len(group) > 1 for group in ranks.groups)
    below = bars + (len(names) + 1) // 2 + 0.7
    side = 0.03 + 0.0083 * max(len(f"{name}  1.00") for name in names)
    ink = "#111111"
    with drawing.drawing("ranks"):
        figure = Figure(figsize=(WIDTH, LINE * (ABOVE + below)))
        panel = figure.subplots()
        figure.subplots_adjust(left=side, right=1 - side, top=1, bottom=0)
        drawn = scikit_posthocs.critical_difference_diagram(
            ranks.average,
            DataFrame(together, names, names).astype(float),
            ax=panel,
            label_fmt_left="{label}  {rank:.2f} ",
            label_fmt_right=" {rank:.2f}  {label}",
            elbow_props={"color": ink, "linewidth": 0.9},
            crossbar_props={"color": ink, "linewidth": 3.5, "solid_capstyle": "butt"},
        )
        for (bar,) in drawn["crossbars"]:
            # The library passes a set, whose order differs from process to process.
            bar.set_xdata(sorted(bar.get_xdata()))
        panel.spines["top"].set_visible(True)
        panel.set_xlim(1, len(names))
        panel.set_xticks(range(1, len(names) + 1))
        panel.set_ylim(-below, ABOVE)
        end = 1 + ranks.critical
        panel.plot([1, end], [1.7, 1.7], "|-", color=ink, linewidth=0.9, clip_on=False)
        panel.text(end, 1.7, f"  CD = {ranks.critical:.2f}", color=ink, va="center")
        return drawing.svg(figure)
