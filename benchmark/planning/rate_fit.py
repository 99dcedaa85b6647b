"""The best learning rate of a sweep, by a smooth fit of the score over the logarithm of the rate.

The maximum over a few rates with a few seeds picks noise: whichever seed was lucky decides it, and it is
a whole step away from the best rate as often as not. A Gaussian process with a fixed kernel borrows from
the neighbours, may choose a rate between those tried, and follows the cliff beyond which runs fail,
which a parabola does not. `tests/planning/test_rate_fit.py` compares it with the maximum on planted
sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

LENGTH = 1.0
"""Correlation length of the score, in steps of the sweep (of a factor √10: half a decade)."""

SIGNAL = 0.05
"""Standard deviation of the score about its mean over the rates tried, as a share of 1."""

NOISE, WEIGHT = 0.015, 4
"""The deviation of a score over seeds that is expected beforehand, and how many degrees of freedom
that is worth. Three seeds alone would give a deviation that is much too small now and then; one that is
pooled over rates would be that of the rates at which training runs begin to fail."""

RESOLUTION = 20
"""Candidates between two rates that were tried."""

NEAR = 0.5
"""Steps from an edge within which a better place may lie beyond it."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A fitted sweep; places are powers of the sweep's factor, 0 the recipe's own rate."""

    place: float
    """Of the highest expected score."""
    low: float
    """Between this and `high` every rate tried gave a score."""
    high: float
    at_edge: bool
    """Whether the best place is within NEAR of the lowest or the highest of all that were tried."""
    _places: Array
    _weights: Array
    _mean: float

    def score(self, place: float) -> float | None:
        """The expected score at a place, None outside `low` and `high`."""
        if not self.low - 1e-9 <= place <= self.high + 1e-9:
            return None
        score = self._mean + float(_kernel(np.array([place]), self._places)[0] @ self._weights)
        return round(score, 6)


def fit(scores: Mapping[int, Sequence[float | None]]) -> Fit | None:
    """The fit of the scores, in 0..1, of each seed at each place; None where no place has all of them.

    A place where a seed has no score is not used: the rate is not to be chosen, nor one beyond it.
    Scores are weighted by their number and the spread of seeds at their place.
    """
    whole = {
        place: [score for score in found if score is not None]
        for place, found in sorted(scores.items())
        if found and all(score is not None for score in found)
    }
    if not whole:
        return None
    means = {place: fmean(found) for place, found in whole.items()}
    best = max(means, key=lambda place: (means[place], -place))
    run = _run(list(whole), best)
    places = np.array(run, dtype=float)
    values = np.array([means[place] for place in run])
    variance = np.array([_variance(whole[place]) for place in run])
    centre = float(values.mean())
    covariance = _kernel(places, places) + np.diag(variance)
    weights = np.asarray(np.linalg.solve(covariance, values - centre), dtype=np.float64)
    candidates = np.linspace(run[0], run[-1], (run[-1] - run[0]) * RESOLUTION + 1)
    expected = centre + _kernel(candidates, places) @ weights
    # Rounded, so that the choice does not hang on the last bits of a linear solver.
    chosen = round(float(candidates[int(np.argmax(np.round(expected, 9)))]), 2)
    at_edge = chosen <= min(scores) + NEAR or chosen >= max(scores) - NEAR
    return Fit(chosen, run[0], run[-1], at_edge, places, weights, centre)


def _variance(scores: Sequence[float]) -> float:
    """Of a mean score: that of its seeds, together with what is expected beforehand."""
    centre = fmean(scores)
    own = math.fsum((score - centre) ** 2 for score in scores)
    return (WEIGHT * NOISE**2 + own) / (WEIGHT + len(scores) - 1) / len(scores)


def _run(places: Sequence[int], best: int) -> list[int]:
    """The places next to one another, of those with a score, around the best."""
    run = [best]
    while run[0] - 1 in places:
        run.insert(0, run[0] - 1)
    while run[-1] + 1 in places:
        run.append(run[-1] + 1)
    return run


def _kernel(a: Array, b: Array) -> Array:
    """Squared exponential, of SIGNAL and LENGTH."""
    distance: Array = (a[:, None] - b[None, :]) / LENGTH
    return SIGNAL**2 * np.exp(-0.5 * distance**2)
