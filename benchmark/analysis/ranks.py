"""Average ranks of schemes over methods or tasks, and which of them a rank test can tell apart.

Ranks are descriptive: they show which schemes tend to be ahead, not by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""Level of Friedman's and of Nemenyi's test."""

FEWEST = 3
"""The least number of treatments, and of blocks, to compare ranks."""


@dataclass(frozen=True)
class Ranks:
    """Treatments compared by their ranks within blocks."""

    average: dict[str, float]
    """Average rank of each treatment, the best (1 is the highest value of its block) first."""
    blocks: int
    """The number of blocks."""
    p: float
    """Friedman's, of the hypothesis that all treatments have the same distribution of ranks."""
    critical: float
    """Average ranks further apart than this differ (Nemenyi)."""
    groups: tuple[tuple[str, ...], ...]
    """Largest sets of neighbours in rank that do not differ; a treatment may be in several."""


def critical_difference(blocks: Sequence[Mapping[str, float]]) -> Ranks | None:
    """Compare treatments by their ranks over blocks, each a value by treatment, higher is better.

    Ranks are taken among the treatments that every block holds; equal values share their average.
    If Friedman's test finds no difference, Nemenyi's is not used and all are one group
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
    # If all values of every block are equal, there is no statistic and no difference.
    equal = bool((values == values[:, :1]).all())
    p = 1.0 if equal else float(stats.friedmanchisquare(*values.T).pvalue)
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
