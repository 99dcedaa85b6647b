"""How many paired seeds it takes to show a difference, and to show equivalence.

Both are calculated before the runs, from the standard deviation over seeds that the difference had in
a pilot, and from the level at which each of several claims is tested. `tests/analysis/test_power.py`
compares the formulas with statsmodels and with simulated experiments.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from functools import lru_cache

from benchmark.analysis.statistics import quantile

POWER = 0.8
"""The probability with which an effect, or equivalence, is to be found."""

MOST = 1000
"""The largest number of paired seeds that is considered."""

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

    Given the estimated deviation s, the estimate has to be within ± (margin − t · s / √n). The
    probability of this is a difference of two normal ones, averaged over the distribution of s.
    """
    import numpy as np
    from scipy import stats

    df = n - 1
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    half = margin - quantile(df, 2 * level) * sd * np.sqrt(stats.chi2.ppf(shares, df) / df / n)
    se = sd / math.sqrt(n)
    inside = stats.norm.cdf((half - true) / se) - stats.norm.cdf((-half - true) / se)
    return float(np.where(half > 0, inside, 0.0).mean())


@lru_cache
def seeds_for_difference(size: float, sd: float, level: float) -> int | None:
    """The fewest paired seeds that find a difference of that size with POWER; None beyond MOST."""
    return _fewest(lambda n: of_difference(size, sd, n, level))


@lru_cache
def seeds_for_equivalence(margin: float, sd: float, level: float) -> int | None:
    """The fewest paired seeds that show equivalence with POWER if there is no difference at all.

    None beyond MOST.
    """
    return _fewest(lambda n: of_equivalence(margin, sd, n, level))


def _fewest(chance: Callable[[int], float]) -> int | None:
    """The first number of seeds with POWER, of a chance that rises with their number."""
    seeds = range(2, MOST + 1)
    place = bisect.bisect_left(seeds, POWER, key=chance)
    return seeds[place] if place < len(seeds) else None
