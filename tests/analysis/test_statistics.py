"""Pooled spreads and intervals agree with numpy, scipy and a calculation by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmark.analysis import statistics
from benchmark.analysis.statistics import Spread


def test_pooled_spread_by_hand() -> None:
    # Sums of squares: 1 + 1 in the first row, 4 + 0 + 4 in the second; 10 / (1 + 2).
    spread = statistics.pooled_spread([[1.0, 3.0], [10.0, 12.0, 14.0]])
    assert spread.df == 3
    assert spread.sd == pytest.approx(math.sqrt(10 / 3), rel=1e-15)


def test_pooled_spread_is_the_residual_deviation_of_an_analysis_of_variance() -> None:
    random = np.random.default_rng(0)
    rows = [random.normal(center, 0.1, size) for center, size in ((0, 2), (3, 5), (-1, 3))]
    design = np.zeros((10, 3))
    design[np.arange(10), np.repeat([0, 1, 2], [2, 5, 3])] = 1
    _, residual, rank, _ = np.linalg.lstsq(design, np.concatenate(rows), rcond=None)
    spread = statistics.pooled_spread([list(row) for row in rows])
    assert spread.df == 10 - rank
    assert spread.sd == pytest.approx(math.sqrt(residual[0] / (10 - rank)))


def test_interval_of_a_single_pooled_row_is_scipys() -> None:
    values = [0.61, 0.64, 0.60, 0.66]
    found = statistics.estimate(values, statistics.pooled_spread([values]))
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.half_width == pytest.approx((high - low) / 2)


def test_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        rows = random.normal(0.5, 0.02, (8, 2)).tolist()
        found = statistics.estimate(rows[0], statistics.pooled_spread(rows))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
    # Within three standard errors of 95 % of 400.
    assert abs(covered - 380) < 3 * math.sqrt(400 * 0.95 * 0.05)


def test_rows_of_one_value_do_not_count() -> None:
    assert statistics.pooled_spread([[0.1], [0.2, 0.4], []]) == statistics.pooled_spread(
        [[0.2, 0.4]]
    )


def test_no_spread_no_interval() -> None:
    spread = statistics.pooled_spread([[0.1], [0.2]])
    assert spread == Spread(None, 0)
    found = statistics.estimate([0.1], spread)
    assert found is not None
    assert (found.mean, found.low, found.high, found.sd, found.half_width) == (0.1, *[None] * 4)


def test_no_values_no_estimate() -> None:
    assert statistics.estimate([], Spread(0.1, 3)) is None


def test_interval_is_cut_to_accuracies() -> None:
    found = statistics.estimate([0.99, 1.0], Spread(0.05, 1))
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(0.995 - 12.7062 * 0.05 / 2**0.5), 1.0)


def test_a_value_without_chance_is_its_own_interval() -> None:
    found = statistics.estimate([0.5], Spread(0.0, 1))
    assert found is not None
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("level", [0.05, 0.005])
def test_the_quantile_is_that_of_a_two_sided_test(level: float) -> None:
    assert statistics.quantile(7, level) == pytest.approx(stats.t.ppf(1 - level / 2, 7), rel=1e-12)


def test_interval_of_a_difference_of_two_rows_is_that_of_an_unpaired_t_test() -> None:
    a, b = [0.61, 0.64, 0.60, 0.66], [0.52, 0.55]
    expected = stats.ttest_ind(a, b).confidence_interval(0.95)
    half = statistics.half_width(statistics.pooled_spread([a, b]), len(a), len(b))
    assert half == pytest.approx((expected.high - expected.low) / 2)
