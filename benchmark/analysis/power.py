"""How many paired seeds a verdict needs: of a difference, and of equivalence.

Both are calculated before the runs, from the standard deviation that a pilot had of the difference over
seeds and the level at which each of several claims is tested. `tests/analysis/test_power.py` compares
the formulas with statsmodels and with simulated experiments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from benchmark.analysis.statistics import quantile

POWER = 0.8
"""With which probability an effect, or equivalence, is to be found."""

MOST = 1000
"""Paired seeds beyond which nothing is looked for."""

QUANTILES = 2000
"""Values of the estimated standard deviation over which the power of equivalence is averaged."""


@lru_cache
def effect(df: int, level: float) -> float:
    """The effect, in standard errors, that a two-sided t-test at a level finds with POWER."""
    from scipy import optimize, stats

    limit = quantile(df, level)

    def lacking(size: float) -> float:
        # The other tail adds less than the level.
        return float(stats.nct.sf(limit, df, size)) - POWER

    return float(optimize.brentq(lacking, 0.0, 4 * limit + 4))


def of_difference(size: float, sd: float, n: int, level: float) -> float:
    """The chance that a two-sided paired t-test finds a true difference with its sign.

    `size` is the difference and `sd` its standard deviation over seeds, both of one unit; `n` paired
    seeds. The statistic has the noncentral t distribution with √n · size / sd.
    """
    from scipy import stats

    return float(stats.nct.sf(quantile(n - 1, level), n - 1, math.sqrt(n) * abs(size) / sd))


def of_equivalence(margin: float, sd: float, n: int, level: float, true: float = 0.0) -> float:
    """The chance that two one-sided tests show a difference to lie within ± margin.

    Given the estimated deviation s, the estimate has to lie within ± (margin − t · s / √n), which is a
    difference of two normal probabilities; they are averaged over the distribution of s.
    """
    import numpy as np
    from scipy import stats

    df = n - 1
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    half = margin - quantile(df, 2 * level) * sd * np.sqrt(stats.chi2.ppf(shares, df) / df / n)
    se = sd / math.sqrt(n)
    inside = stats.norm.cdf((half - true) / se) - stats.norm.cdf((-half - true) / se)
    return float(np.where(half > 0, inside, 0.0).mean())


def seeds_for_difference(size: float, sd: float, level: float) -> int | None:
    """The fewest paired seeds that find a difference of that size with POWER; None beyond MOST."""
    return _fewest(lambda n: of_difference(size, sd, n, level))


def seeds_for_equivalence(margin: float, sd: float, level: float) -> int | None:
    """The fewest paired seeds that show equivalence with POWER if there is no difference at all.

    None beyond MOST.
    """
    return _fewest(lambda n: of_equivalence(margin, sd, n, level))


def _fewest(chance: Callable[[int], float]) -> int | None:
    """The first number of seeds with POWER, of a chance that rises with their number."""
    low, high = 1, 2
    while chance(high) < POWER:
        if high >= MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if chance(middle) >= POWER else (middle, high)
    return high
