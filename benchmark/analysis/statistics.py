"""Means, spreads and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation within rows, pooled over rows, and its degrees of freedom."""

    sd: float | None
    """Null where no row has two values."""
    df: int


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in the unit of its values."""

    mean: float
    low: float | None
    """Lower end of the interval, null where no spread could be estimated; so for `high`."""
    high: float | None
    sd: float | None
    """Standard deviation of these values alone (n − 1), null for a single one."""
    half_width: float | None
    """Half the interval before it is cut to 0..1."""
    n: int
    """How many values."""


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value, independent of their order."""
    return math.fsum(values) / len(values)


def _squares(values: Sequence[float]) -> float:
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values)


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation with n − 1 in the denominator, None for fewer than two values."""
    return math.sqrt(_squares(values) / (len(values) - 1)) if len(values) > 1 else None


def pool(rows: Iterable[Sequence[float]]) -> Spread:
    """The pooled standard deviation within rows: √(Σᵢ Σⱼ (xᵢⱼ − x̄ᵢ)² / Σᵢ (nᵢ − 1)).

    Rows of fewer than two values say nothing about the spread and add no degrees of freedom.
    """
    kept = [row for row in rows if len(row) > 1]
    df = sum(len(row) - 1 for row in kept)
    return Spread(math.sqrt(math.fsum(map(_squares, kept)) / df) if df else None, df)


def half_width(spread: Spread, n: int) -> float | None:
    """t(.975, df) · sd / √n: half the interval of a mean of `n` values, None without a spread."""
    if spread.sd is None:
        return None
    # What scipy.stats.t.ppf calls; all of scipy.stats takes a second to import.
    from scipy.special import stdtrit

    return float(stdtrit(spread.df, (1 + LEVEL) / 2)) * spread.sd / math.sqrt(n)


def estimate(values: Sequence[float], spread: Spread) -> Estimate | None:
    """Mean and interval of accuracies in 0..1, the interval cut to 0..1; None without values."""
    if not values:
        return None
    centre, half = mean(values), half_width(spread, len(values))
    low = None if half is None else max(0.0, centre - half)
    high = None if half is None else min(1.0, centre + half)
    return Estimate(centre, low, high, deviation(values), half, len(values))


def exact(values: Sequence[float]) -> Estimate | None:
    """The estimate of something that does not depend on the seed: low = high = mean."""
    if not values:
        return None
    centre = mean(values)
    return Estimate(centre, centre, centre, deviation(values), 0.0, len(values))
