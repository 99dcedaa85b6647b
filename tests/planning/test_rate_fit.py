"""The fit of a sweep finds better rates than the best mean of a few noisy trials."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmark.planning.rate_fit import fit

PLACES = (-2, -1, 0, 1, 2)
SEEDS = 3
SWEEPS = 400

Curve = Callable[[float, float], float]
"""Accuracy at a place, for a best place: what a sweep would show without noise."""

CURVES: dict[str, Curve] = {
    "parabola": lambda x, best: 0.5 - 0.03 * (x - best) ** 2,
    "plateau": lambda x, best: 0.5 - 0.007 * (x - best) ** 2,
    "steeper above": lambda x, best: (
        0.5 - (0.02 * (best - x) if x < best else 0.08 * (x - best) ** 1.5)
    ),
    "cliff above": lambda x, best: 0.5 - 0.015 * abs(x - best) if x < best + 0.8 else 0.25,
}


def regrets(curve: Curve, noise: float) -> tuple[float, float]:
    """What is lost by the fit's choice and by the best mean's, the mean over planted sweeps."""
    random = np.random.default_rng(3)
    lost = np.zeros((SWEEPS, 2))
    grid = np.linspace(-2, 2, 401)
    for row in lost:
        best = random.uniform(-1.2, 1.2)
        scores = {
            place: [curve(place, best) + noise * random.standard_normal() for _ in range(SEEDS)]
            for place in PLACES
        }
        found = fit(scores)
        assert found is not None
        chosen = found.place, max(scores, key=lambda place: sum(scores[place]))
        top = max(curve(x, best) for x in grid)
        row[:] = [top - curve(place, best) for place in chosen]
    return float(lost[:, 0].mean()), float(lost[:, 1].mean())


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.035])
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_the_fit_loses_less_than_the_maximum(curve: Curve, noise: float) -> None:
    ours, maximum = regrets(curve, noise)
    assert ours < maximum


def test_without_noise_the_fit_finds_the_best_place_between_those_tried() -> None:
    found = fit({place: [0.5 - 0.03 * (place - 0.4) ** 2] * SEEDS for place in PLACES})
    assert found is not None
    assert found.place == pytest.approx(0.4, abs=0.1)
    assert not found.at_edge
    assert found.score(0) == pytest.approx(0.5 - 0.03 * 0.16, abs=0.005)


@pytest.mark.parametrize(("slope", "place"), [(0.05, 2), (-0.05, -2)])
def test_a_rising_score_is_best_at_the_edge(slope: float, place: int) -> None:
    found = fit({x: [0.4 + slope * x] * SEEDS for x in PLACES})
    assert found is not None
    assert (found.place, found.at_edge) == (place, True)
    assert found.score(place * 1.5) is None


def test_failed_seeds_end_the_range() -> None:
    scores: dict[int, list[float | None]] = {
        -1: [0.3] * 3,
        0: [0.4] * 3,
        1: [0.9, 0.9, None],
        2: [0.9] * 3,
    }
    scores[2] = [None] * 3
    found = fit(scores)
    assert found is not None
    assert found.place == 0
    assert (found.low, found.high, found.at_edge) == (-1, 0, False)
    assert found.score(1) is None


def test_a_gap_is_not_bridged() -> None:
    """What scores beyond a rate that fails is not on the same curve."""
    found = fit({-1: [0.3], 0: [0.4], 1: [None], 2: [0.35]})
    assert found is not None
    assert found.place == 0
    assert found.high == 0


def test_nothing_scored() -> None:
    assert fit({0: [None], 1: [None, None]}) is None
    assert fit({}) is None


def test_one_place_is_its_own_best() -> None:
    found = fit({0: [0.4, 0.5], 1: [None, 0.9]})
    assert found is not None
    assert (found.place, found.score(0)) == (0, pytest.approx(0.45, abs=1e-6))
