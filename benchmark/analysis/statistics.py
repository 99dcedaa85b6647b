"""Means, spreads and intervals over seeds, and how many digits of them are published."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Annotated

from pydantic import Field, PlainSerializer

LEVEL = 0.95
"""Coverage of an interval that is not adjusted for the number of comparisons."""

DIGITS = 6
"""Decimals of a measured number in a JSON document."""


def rounded(value: float) -> float:
    """A measured number as it is published; minus zero is zero."""
    return round(value, DIGITS) + 0.0


Measured = Annotated[float, PlainSerializer(rounded, return_type=float)]
"""A measured number. Settings such as learning rates are plain floats and published exactly."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation within rows, pooled over rows, and its degrees of freedom."""

    sd: Measured | None
    """Null if no row has two values."""
    df: int


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in the unit of its values."""

    mean: Measured
    low: Measured | None
    """Lower end of the interval, null if no spread could be estimated; `high` likewise."""
    high: Measured | None
    sd: Measured | None
    """Standard deviation of these values alone (n − 1), null for a single one."""
    half_width: Annotated[float | None, Field(exclude=True)]
    """Half the interval before it is cut to 0..1."""
    n: int
    """How many values."""


def _squares(values: Sequence[float]) -> float:
    centre = fmean(values)
    return math.fsum((value - centre) ** 2 for value in values)


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation with n − 1 in the denominator, None for fewer than two values."""
    return math.sqrt(_squares(values) / (len(values) - 1)) if len(values) > 1 else None


def pooled_spread(rows: Iterable[Sequence[float]]) -> Spread:
    """The pooled standard deviation within rows: √(Σᵢ Σⱼ (xᵢⱼ − x̄ᵢ)² / Σᵢ (nᵢ − 1)).

    Rows of fewer than two values do not show a spread and add no degrees of freedom.
    """
    kept = [row for row in rows if len(row) > 1]
    df = sum(len(row) - 1 for row in kept)
    return Spread(math.sqrt(math.fsum(map(_squares, kept)) / df) if df else None, df)


@cache
def quantile(df: float, level: float = 1 - LEVEL) -> float:
    """The t quantile of a two-sided test at a level: half of an interval, in standard errors."""
    # What scipy.stats.t.isf calls; all of scipy.stats takes a second to import.
    from scipy.special import stdtrit

    return -float(stdtrit(df, level / 2))


def half_width(spread: Spread, *counts: int) -> float | None:
    """t(.975, df) · sd · √(1/n + 1/m + …): half the interval of a sum of means of n, m, … values.

    That of one mean, or of the difference of two. None without a spread.
    """
    if spread.sd is None:
        return None
    return quantile(spread.df) * spread.sd * math.sqrt(sum(1 / n for n in counts))


def estimate(values: Sequence[float], spread: Spread) -> Estimate | None:
    """Mean and interval of accuracies in 0..1, the interval cut to 0..1; None without values."""
    if not values:
        return None
    centre, half = fmean(values), half_width(spread, len(values))
    low = None if half is None else max(0.0, centre - half)
    high = None if half is None else min(1.0, centre + half)
    return Estimate(centre, low, high, deviation(values), half, len(values))
