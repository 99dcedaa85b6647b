"""Average ranks of schemes over methods or tasks, and which of them a rank test can tell apart.

Descriptive: ranks say who tends to be ahead of whom, not by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.report import drawing
from benchmark.report.drawing import WIDTH

LEVEL = 0.05
"""Of Friedman's test and of Nemenyi's."""

FEWEST = 3
"""Treatments and blocks that it takes to compare ranks."""

LINE = 0.24
"""Inches between two bars or names."""

ABOVE = 2.3
"""Lines above the axis, for its ticks and the critical difference."""


@dataclass(frozen=True)
class Ranks:
    """Treatments compared by their ranks within blocks."""

    average: dict[str, float]
    """Average rank of each treatment, the best (1 is the highest value of its block) first."""
    blocks: int
    """How many blocks held all treatments."""
    p: float
    """Friedman's: all treatments have the same law of ranks."""
    critical: float
    """Average ranks further apart than this differ (Nemenyi)."""
    groups: tuple[tuple[str, ...], ...]
    """Largest sets of neighbours in rank that do not differ; a treatment may be in several."""


def critical_difference(blocks: Sequence[Mapping[str, float]]) -> Ranks | None:
    """Compare treatments by their ranks over blocks, each a value by treatment, higher is better.

    Ranks are taken among the treatments that every block holds; equal values share their average.
    Where Friedman's test finds no difference, Nemenyi's is not asked and all are one group
    (J. Demšar, Statistical comparisons of classifiers over multiple data sets, 2006, section
    3.2.2). None with fewer than three treatments or three blocks.
    """
    common = sorted(set.intersection(*map(set, blocks))) if blocks else []
    if len(common) < FEWEST or len(blocks) < FEWEST:
        return None
    import numpy as np
    import scikit_posthocs
    from scipy import stats

    # The best is the lowest, as ranks count upwards.
    values = -np.array([[block[name] for name in common] for block in blocks])
    means = dict(zip(common, stats.rankdata(values, axis=1).mean(0).tolist(), strict=True))
    order = sorted(common, key=lambda name: (means[name], name))
    # Where all values of every block are equal there is no statistic, and nothing to tell apart.
    alike = bool((values == values[:, :1]).all())
    p = 1.0 if alike else float(stats.friedmanchisquare(*values.T).pvalue)
    k, n = len(common), len(blocks)
    quantile = float(stats.studentized_range.ppf(1 - LEVEL, k, math.inf))
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(values).to_numpy()
    pairs = {(a, b): nemenyi[common.index(a), common.index(b)] for a in common for b in common}
    groups: list[tuple[str, ...]] = []
    for first in range(k):
        run = [b for b in order[first:] if p > LEVEL or pairs[order[first], b] > LEVEL]
        if not groups or run[-1] not in groups[-1]:
            groups.append(tuple(run))
    return Ranks(
        average={name: means[name] for name in order},
        blocks=n,
        p=p,
        critical=quantile * math.sqrt(k * (k + 1) / (12 * n)),
        groups=tuple(groups),
    )


def diagram(ranks: Ranks) -> bytes:
    """The critical-difference diagram as SVG: bars join the treatments that do not differ."""
    import scikit_posthocs
    from matplotlib.figure import Figure
    from pandas import DataFrame  # type: ignore[import-untyped]

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
            # The library hands over a set, whose order differs from process to process.
            bar.set_xdata(sorted(bar.get_xdata()))
        panel.spines["top"].set_visible(True)
        panel.set_xlim(1, len(names))
        panel.set_xticks(range(1, len(names) + 1))
        panel.set_ylim(-below, ABOVE)
        end = 1 + ranks.critical
        panel.plot([1, end], [1.7, 1.7], "|-", color=ink, linewidth=0.9, clip_on=False)
        panel.text(end, 1.7, f"  CD = {ranks.critical:.2f}", color=ink, va="center")
        return drawing.svg(figure)
