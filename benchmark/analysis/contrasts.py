"""Tests of the difference between two arms trained with the same seeds.

The test is a paired t-test. Its spread is the larger of two: that of the differences over seeds, and
that pooled over the arms of the experiment. The pool alone would be calibrated only if all arms were
equally noisy, and the spread of the differences alone is sometimes small by chance. Each spread has
its own degrees of freedom: n − 1 for the differences, else those of the pool. So whole tables of
claims keep the stated level; `tests/analysis/test_calibration.py` simulates it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Annotated

from pydantic import Field, PlainSerializer

from benchmark.analysis import power, statistics
from benchmark.analysis.statistics import Measured, Spread

LEVEL = 0.05
"""Share of whole tables of claims that may hold a false verdict."""

COMPARISONS = 10
"""Primary differences in a table; each is tested at LEVEL / COMPARISONS (Bonferroni)."""

ROUNDING = 1e-12
"""The largest difference between sums of a few values near 1 that is due to rounding alone."""

Chance = Annotated[float, PlainSerializer(lambda p: float(f"{p:.3g}"), return_type=float)]
"""A p-value; published with three significant digits, because a small p is not zero."""


@dataclass(frozen=True)
class Finding:
    """What the seeds show of a difference, in its unit. Null if no spread could be estimated."""

    estimate: Annotated[Measured, Field(serialization_alias="mean")]
    """Mean difference."""
    low: Measured | None
    """Lower end of the simultaneous interval (coverage 1 − LEVEL / comparisons); `high` likewise."""
    high: Measured | None
    se: Measured | None
    """Standard error of the estimate, from the larger spread."""
    df: int
    """Degrees of freedom of the t quantiles: of the spread that decided, n − 1 or the pool's."""
    p: Chance
    """Two-sided, of no difference, not adjusted; 1 if no spread could be estimated."""
    p_adjusted: Chance
    significant: bool
    """The adjusted p is at most LEVEL: 0 is outside the interval."""
    p_equivalence: Chance | None
    """The larger of the two one-sided tests' (TOST), not adjusted; null without a margin."""
    equivalent: bool | None
    """The difference is shown to be within ± margin, at the same adjusted level."""
    detectable: Measured | None
    """The smallest true difference, of either sign, that this design finds four times in five."""
    n: int
    """Paired seeds."""
    own_sd: Measured | None
    """Standard deviation of the differences (n − 1)."""
    pooled_sd: Measured | None
    """The pool's standard deviation of such a difference: √2 times that of one value."""
    pooled: bool
    """Whether the pool's spread was the larger and decided."""


def residual_spread(groups: Iterable[Sequence[Sequence[float]]]) -> Spread:
    """The spread of a single value once its arm and its seed are accounted for.

    Each group is arms × seeds, a randomized block design: arms of one method in one experiment and
    one unit, the same seeds in the same order. Its residuals are those of the additive model, on
    (arms − 1)(seeds − 1) degrees of freedom; groups add squares and degrees (R. A. Fisher, The
    Design of Experiments, 1935, chapter 4). Groups of one arm or one seed add nothing.
    """
    import numpy as np

    squares, df = [], 0
    for group in groups:
        values = np.array(group)
        if values.ndim < 2 or min(values.shape) < 2:
            continue
        residuals = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
        squares.append(float((residuals**2).sum()))
        df += (values.shape[0] - 1) * (values.shape[1] - 1)
    return Spread(math.sqrt(math.fsum(squares) / df) if df else None, df)


def assess(
    differences: Sequence[float],
    pooled: Spread,
    *,
    comparisons: int = COMPARISONS,
    margin: float | None = None,
) -> Finding:
    """Is there a difference, is there none beyond the margin, or can this design not say?

    `differences` of two arms, one for each seed. `pooled` is the spread of a single value in their
    experiment and unit (`residual_spread`), both arms included if they did not fail. `margin` is in
    the same unit.

    If no spread at all is left, as every seed has the same difference, there is no t-test, and both
    tests use the chance 4^(1 − n) of that: two arms that differ by nothing but
    independent draws from one law have a given difference d ≠ 0 with probability at most 1/4
    (values d apart form chains; P ≤ P(even links) · P(odd links)). The interval is then a point.
    """
    n = len(differences)
    own = statistics.deviation(differences)
    shared = None if pooled.sd is None else math.sqrt(2) * pooled.sd
    # The pool of two arms is the spread of their differences, except for rounding.
    larger = shared is not None and (own is None or shared > own or math.isclose(shared, own))
    sd = shared if larger else own
    return _tested(
        Finding(
            estimate=fmean(differences),
            low=None,
            high=None,
            se=None if sd is None else sd / math.sqrt(n),
            df=pooled.df if larger else n - 1,
            p=1.0,
            p_adjusted=1.0,
            significant=False,
            p_equivalence=None,
            equivalent=None,
            detectable=None,
            n=n,
            own_sd=own,
            pooled_sd=shared,
            pooled=larger,
        ),
        comparisons,
        margin,
    )


def changed(
    finding: Finding,
    *,
    by: float = 0.0,
    variance: float = 0.0,
    comparisons: int,
    margin: float | None,
) -> Finding:
    """The finding if the estimate were higher by `by` and had so much more variance.

    The degrees of freedom stay: fewer than a sum of variances would have (Satterthwaite 1946), so
    the interval is rather too wide.
    """
    se = None if finding.se is None else math.hypot(finding.se, math.sqrt(variance))
    moved = replace(finding, estimate=finding.estimate + by, se=se)
    return _tested(moved, comparisons, margin)


def _tested(finding: Finding, comparisons: int, margin: float | None) -> Finding:
    """The finding with everything that follows from its estimate, standard error and seeds."""
    from scipy import stats

    level = LEVEL / comparisons
    estimate, se, df, n = finding.estimate, finding.se, finding.df, finding.n
    half: float | None
    detectable: float | None
    if se is not None and se > ROUNDING:
        half = statistics.quantile(df, level) * se
        detectable = power.effect(df, level) * se
        p = float(2 * stats.t.sf(abs(estimate) / se, df))
        beyond = None if margin is None else float(stats.t.sf((margin - abs(estimate)) / se, df))
    elif se is not None and (chance := 4.0 ** (1 - n)) <= level:
        se = half = detectable = 0.0
        p = chance if abs(estimate) > ROUNDING else 1.0
        beyond = None if margin is None else chance if abs(estimate) < margin else 1.0
    else:
        se = half = detectable = None
        p, beyond = 1.0, None if margin is None else 1.0
    return replace(
        finding,
        low=None if half is None else estimate - half,
        high=None if half is None else estimate + half,
        se=se,
        p=p,
        p_adjusted=min(1.0, comparisons * p),
        significant=p <= level,
        p_equivalence=beyond,
        equivalent=None if beyond is None else beyond <= level,
        detectable=detectable,
    )


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation of two arms' values over the seeds.

    None for fewer than three seeds, which show nothing, and if an arm does not vary.
    """
    if len(a) < 3 or any((statistics.deviation(arm) or 0.0) <= ROUNDING for arm in (a, b)):
        return None
    from scipy import stats

    return float(stats.pearsonr(a, b).statistic)
