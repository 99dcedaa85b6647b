"""Numbers of seeds agree with statsmodels and with simulated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from benchmark.analysis import power

LEVEL = 0.005
DRAWN = 100_000


@pytest.mark.parametrize(("size", "n"), [(0.5, 12), (1.0, 7), (1.5, 13), (2.0, 4)])
def test_the_power_of_a_difference_is_statsmodels(size: float, n: int) -> None:
    expected = TTestPower().power(size, n, LEVEL, alternative="two-sided")
    # Its power counts the wrong sign too, of which there is next to nothing.
    assert power.of_difference(3 * size, 3.0, n, LEVEL) == pytest.approx(expected, abs=1e-4)
    assert power.of_difference(-size, 1.0, n, LEVEL) == pytest.approx(expected, abs=1e-4)


def test_the_smallest_effect_that_is_found_has_the_power() -> None:
    expected = TTestPower().solve_power(nobs=13, alpha=LEVEL, power=power.POWER)
    assert power.effect(12, LEVEL) / math.sqrt(13) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("true", [0.0, 0.5])
@pytest.mark.parametrize(("margin", "n"), [(2.0, 7), (1.5, 12), (1.2, 19), (0.9, 60), (4.0, 3)])
def test_the_power_of_equivalence_is_that_of_simulated_experiments(
    margin: float, n: int, true: float
) -> None:
    from scipy import stats

    random = np.random.default_rng(n)
    values = random.normal(true, 1.0, (DRAWN, n))
    mean, se = values.mean(1), values.std(1, ddof=1) / math.sqrt(n)
    limit = stats.t.isf(LEVEL, n - 1)
    shown = ((margin - mean) / se > limit) & ((margin + mean) / se > limit)
    # The same test as an independent library's.
    for row in range(20):
        p, *_ = ttost_paired(values[row], np.zeros(n), -margin, margin)
        assert shown[row] == (p < LEVEL)
    expected = power.of_equivalence(margin, 1.0, n, LEVEL, true)
    share = float(shown.mean())
    assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / DRAWN))


@pytest.mark.parametrize("sd", [0.4, 0.99, 1.35, 2.0, 3.1])
def test_the_seeds_are_the_fewest_that_have_the_power(sd: float) -> None:
    equivalence = power.seeds_for_equivalence(2.0, sd, LEVEL)
    difference = power.seeds_for_difference(2.0, sd, LEVEL)
    assert equivalence
    assert difference
    chances = [power.of_equivalence(2.0, sd, n, LEVEL) for n in range(2, equivalence + 1)]
    assert chances[-1] >= power.POWER > max(chances[:-1])
    found = power.of_difference(2.0, sd, difference, LEVEL)
    assert found >= power.POWER > power.of_difference(2.0, sd, difference - 1, LEVEL)
    expected = TTestPower().solve_power(2.0 / sd, alpha=LEVEL, power=power.POWER)
    assert difference == math.ceil(expected)


def test_units_do_not_matter() -> None:
    seeds = [power.seeds_for_equivalence(0.02 * f, 0.0135 * f, LEVEL) for f in (1, 100)]
    assert seeds[0] == seeds[1] == 11


def test_what_more_seeds_than_anyone_has_would_need_is_none() -> None:
    assert power.seeds_for_equivalence(0.01, 1.0, LEVEL) is None
    assert power.seeds_for_difference(0.01, 1.0, LEVEL) is None
    assert power.of_equivalence(0.01, 1.0, 5, LEVEL) == 0.0
