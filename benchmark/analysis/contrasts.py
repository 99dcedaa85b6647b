"""Verdicts on contrasts between arms trained with the same seeds.

The test is a paired t-test. Its spread is the larger of two: that of the contrast's own differences
over seeds, and that pooled over the arms of its experiment. The pool alone would be calibrated only
if all arms were equally noisy; a difference's own spread is now and then small by chance. Each spread
brings its own degrees of freedom: n − 1 where the differences' own decides, the pool's where that does.
So whole tables of claims keep the stated level; `tests/analysis/test_calibration.py` simulates it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, PlainSerializer

from benchmark.analysis import power, statistics
from benchmark.analysis.statistics import Measured, Spread

LEVEL = 0.05
"""Share of whole tables of claims that may hold a false verdict."""

COMPARISONS = 10
"""Primary contrasts in a table; each is judged at LEVEL / COMPARISONS (Bonferroni)."""

ROUNDING = 1e-12
"""What sums of a few values near 1 differ by when nothing but their rounding differs."""

Chance = Annotated[float, PlainSerializer(lambda p: float(f"{p:.3g}"), return_type=float)]
"""A p-value; published with three significant digits, because a small p is not zero."""


@dataclass(frozen=True)
class Contrast:
    """A signed sum of arms, seed by seed, in the unit of their values."""

    name: str
    differences: tuple[float, ...]
    """Sum of the plus arms less sum of the minus arms, one value a seed."""
    weight: float
    """Sum of the squared coefficients: the variance of a difference in that of a single value."""

    def __post_init__(self) -> None:
        if not self.differences or not all(map(math.isfinite, self.differences)):
            raise ValueError(f"contrast {self.name}: differences must be finite, at least one")
        if not self.weight > 0:
            raise ValueError(f"contrast {self.name}: weight must be above 0, not {self.weight}")


@dataclass(frozen=True)
class Finding:
    """What the seeds say about a contrast, in its unit. Null where no spread could be estimated."""

    estimate: Annotated[Measured, Field(serialization_alias="mean")]
    """Mean difference."""
    low: Measured | None
    """Lower end of the simultaneous interval (coverage 1 − LEVEL / comparisons); so for `high`."""
    high: Measured | None
    se: Measured | None
    """Standard error of the estimate, from the larger spread."""
    df: int
    """Degrees of freedom of the t quantiles: of the spread that decided, the pool's or n − 1."""
    p: Chance
    """Two-sided, of no difference, not adjusted; 1 where no spread could be estimated."""
    p_adjusted: Chance
    significant: bool
    """The adjusted p is at most LEVEL: 0 lies outside the interval."""
    p_equivalence: Chance | None
    """The larger of the two one-sided tests' (TOST), not adjusted; null without a margin."""
    equivalent: bool | None
    """The difference is shown to lie within ± margin, at the same adjusted level."""
    detectable: Measured | None
    """The smallest true difference, of either sign, that this design finds four times in five."""
    n: int
    """Paired seeds."""
    own_sd: Measured | None
    """Standard deviation of the differences (n − 1)."""
    pooled_sd: Measured | None
    """The pool's standard deviation of such a difference: √weight times that of one value."""
    pooled: bool
    """The pool's spread was the larger and decided, not the contrast's own."""


def contrast(
    name: str, plus: Sequence[Sequence[float]], minus: Sequence[Sequence[float]]
) -> Contrast:
    """Plus arms less minus arms, each a row of values in the same order of seeds.

    ValueError unless there are as many on either side, so that what a seed does to every arm
    cancels, and all have the same seeds.
    """
    if len(plus) != len(minus):
        raise ValueError(f"contrast {name}: {len(plus)} arms against {len(minus)}")
    differences = tuple(
        math.fsum((*values[: len(plus)], *(-value for value in values[len(plus) :])))
        for values in zip(*plus, *minus, strict=True)
    )
    return Contrast(name, differences, float(len(plus) + len(minus)))


def pool(groups: Iterable[Sequence[Sequence[float]]]) -> Spread:
    """The spread of a single value once its arm and its seed are accounted for.

    Each group is arms × seeds, a randomized block design: arms of one method in one experiment and
    one unit, the same seeds in the same order. Its residuals are those of the additive model, on
    (arms − 1)(seeds − 1) degrees of freedom; groups add squares and degrees (R. A. Fisher, The
    Design of Experiments, 1935, chapter 4). Groups of one arm or one seed add nothing.
    """
    squares, df = [], 0
    for group in groups:
        blocks = list(zip(*group, strict=True))
        if len(group) < 2 or len(blocks) < 2:
            continue
        arms, seeds = [statistics.mean(row) for row in group], [statistics.mean(b) for b in blocks]
        centre = statistics.mean(arms)
        squares += [
            (value - arm - seed + centre) ** 2
            for row, arm in zip(group, arms, strict=True)
            for value, seed in zip(row, seeds, strict=True)
        ]
        df += (len(group) - 1) * (len(blocks) - 1)
    return Spread(math.sqrt(math.fsum(squares) / df) if df else None, df)


def judge(
    contrast: Contrast,
    pooled: Spread,
    *,
    comparisons: int = COMPARISONS,
    margin: float | None = None,
) -> Finding:
    """Is there a difference, is there none beyond the margin, or can this design not say?

    `pooled` is the spread of a single value in the contrast's experiment and unit (`pool`), the
    contrast's own arms included where they did not fail. `margin` is in the contrast's unit.

    Where no spread at all is left, every seed having the same difference, a t-test has nothing to
    go by, and both tests use the chance 4^(1 − n) of that: two arms that differ by nothing but
    independent draws from one law have a given difference d ≠ 0 with probability at most 1/4
    (values d apart form chains; P ≤ P(even links) · P(odd links)). The interval is then a point.
    """
    n = len(contrast.differences)
    own = statistics.deviation(contrast.differences)
    shared = None if pooled.sd is None else math.sqrt(contrast.weight) * pooled.sd
    # Two arms' pool is their differences' spread but for rounding.
    larger = shared is not None and (own is None or shared > own or math.isclose(shared, own))
    sd = shared if larger else own
    return _tested(
        Finding(
            estimate=statistics.mean(contrast.differences),
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


def moved(finding: Finding, by: float, *, comparisons: int, margin: float | None) -> Finding:
    """The finding if the estimate were another by so much, with the same standard error."""
    return _tested(replace(finding, estimate=finding.estimate + by), comparisons, margin)


def widened(
    finding: Finding, variance: float, *, comparisons: int, margin: float | None
) -> Finding:
    """The finding if the estimate had so much more variance, with the same degrees of freedom.

    Fewer than such a sum would have (Satterthwaite 1946), so that the interval is rather too wide.
    """
    se = None if finding.se is None else math.hypot(finding.se, math.sqrt(variance))
    return _tested(replace(finding, se=se), comparisons, margin)


def _tested(finding: Finding, comparisons: int, margin: float | None) -> Finding:
    """The finding with all that follows from its estimate, its standard error and its seeds."""
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
    """Pearson's correlation between two arms' values, seed by seed.

    None for fewer than three seeds, where it says nothing, and for an arm that does not vary.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} seeds against {len(b)}")
    spreads = [statistics.deviation(values) for values in (a, b)]
    if len(a) < 3 or not all(sd is not None and sd > ROUNDING for sd in spreads):
        return None
    from scipy import stats

    return float(stats.pearsonr(a, b).statistic)
