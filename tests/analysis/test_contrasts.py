"""Verdicts on contrasts agree with scipy and statsmodels and stay finite where those do not."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from benchmark.analysis import contrasts
from benchmark.analysis.contrasts import Finding
from benchmark.analysis.statistics import Spread

NO_POOL = Spread(None, 0)


def arms(seed: int, count: int = 4, seeds: int = 7) -> list[list[float]]:
    random = np.random.default_rng(seed)
    shared = random.normal(0, 0.02, seeds)
    return (random.normal(0.5, 0.01, (count, seeds)) + shared).tolist()


def fit(values: list[list[float]]):
    """The additive model: a coefficient for each arm, and for each seed but the first."""
    count, seeds = np.shape(values)
    arm = np.repeat(np.eye(count), seeds, axis=0)
    seed = np.tile(np.eye(seeds)[:, 1:], (count, 1))
    return OLS(np.ravel(values), np.hstack([arm, seed])).fit()


def between(plus: list[float], minus: list[float]) -> list[float]:
    return [a - b for a, b in zip(plus, minus, strict=True)]


def test_pool_is_the_residual_deviation_of_the_additive_model() -> None:
    values = arms(0)
    model = fit(values)
    found = contrasts.residual_spread([values])
    assert found.df == model.df_resid == 18
    assert found.sd == pytest.approx(math.sqrt(model.mse_resid))


def test_groups_add_squares_and_degrees_of_freedom() -> None:
    first, second = arms(1), arms(2, count=2)
    found = contrasts.residual_spread([first, second])
    models = [fit(first), fit(second)]
    assert found.df == sum(model.df_resid for model in models) == 24
    assert found.sd == pytest.approx(math.sqrt(sum(model.ssr for model in models) / 24))


def test_pool_of_two_arms_is_the_spread_of_their_differences() -> None:
    values = arms(3, count=2)
    found = contrasts.residual_spread([values])
    assert found.sd is not None
    assert found.df == 6
    assert found.sd * math.sqrt(2) == pytest.approx(np.std(np.diff(values, axis=0), ddof=1))


def test_groups_of_one_arm_or_seed_say_nothing() -> None:
    assert contrasts.residual_spread([[], [[0.1, 0.2]], [[0.1], [0.2]]]) == NO_POOL
    values = arms(4)
    assert contrasts.residual_spread([values, [[0.1, 0.2]]]) == contrasts.residual_spread([values])


def test_pool_needs_every_seed_of_every_arm() -> None:
    with pytest.raises(ValueError):
        contrasts.residual_spread([[[0.1, 0.2], [0.1, 0.2, 0.3]]])


def test_without_a_pool_it_is_the_paired_t_test() -> None:
    a, b = arms(5, count=2)
    found = contrasts.assess(between(a, b), NO_POOL)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(1 - 0.05 / 10)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.df, found.n, found.pooled, found.pooled_sd) == (6, 7, False, None)


def test_a_larger_pool_gives_the_linear_models_contrast() -> None:
    seen = set()
    for seed in range(20):
        values = arms(seed)
        model = fit(values)
        coefficients = np.zeros(len(model.params))
        coefficients[:2] = 1, -1
        expected = model.t_test(coefficients)
        differences = between(*values[:2])
        found = contrasts.assess(differences, contrasts.residual_spread([values]))
        own = contrasts.assess(differences, NO_POOL)
        assert own.se is not None
        assert found.se == pytest.approx(max(float(expected.sd.item()), own.se))
        seen.add(found.pooled)
        if found.pooled:
            assert found.p == pytest.approx(float(expected.pvalue))
            assert (found.low, found.high) == pytest.approx(
                tuple(expected.conf_int(0.05 / 10).ravel())
            )
        else:
            assert found.p > expected.pvalue
    assert seen == {True, False}


def test_a_noisier_contrast_has_its_own_degrees_of_freedom() -> None:
    differences = (0.1, -0.1, 0.3)
    found = contrasts.assess(differences, Spread(0.01, 18))
    assert not found.pooled
    assert found.own_sd == pytest.approx(0.2)
    assert found.pooled_sd == pytest.approx(0.01 * math.sqrt(2))
    assert (found.df, found.se) == (2, pytest.approx(0.2 / math.sqrt(3)))
    assert found.p == pytest.approx(2 * stats.t.sf(0.1 / (0.2 / math.sqrt(3)), 2))
    quiet = contrasts.assess(differences, Spread(0.2, 18))
    assert quiet.pooled
    assert (quiet.df, quiet.se) == (18, pytest.approx(0.2 * math.sqrt(2 / 3)))


def test_a_moved_finding_is_the_finding_of_moved_differences() -> None:
    """What follows from the estimate is judged anew; the spread and its degrees of freedom stay."""
    for spread in (NO_POOL, Spread(0.002, 18), Spread(0.02, 18)):
        values = arms(12, count=2)
        differences = between(*values[:2])
        found = contrasts.assess(differences, spread, margin=0.02)
        higher = tuple(difference + 0.03 for difference in differences)
        expected = contrasts.assess(higher, spread, margin=0.02)
        moved = contrasts.changed(found, by=0.03, comparisons=contrasts.COMPARISONS, margin=0.02)
        for field in dataclasses.fields(Finding):
            value = getattr(expected, field.name)
            actual = getattr(moved, field.name)
            assert actual == (value if value is None else pytest.approx(value, rel=1e-6)), (
                field.name
            )


def test_two_arms_pool_is_the_pool_whatever_the_rounding() -> None:
    for seed in range(20):
        a, b = arms(seed, count=2)
        differences = between(a, b)
        assert contrasts.assess(differences, contrasts.residual_spread([[a, b]])).pooled


def test_levels_are_bonferronis() -> None:
    differences = np.random.default_rng(6).normal(0.004, 0.004, (10, 7))
    found = [contrasts.assess(row.tolist(), NO_POOL) for row in differences]
    reject, adjusted, *_ = multipletests([f.p for f in found], 0.05, "bonferroni")
    assert [f.p_adjusted for f in found] == pytest.approx(list(adjusted))
    assert [f.significant for f in found] == list(reject)
    assert {f.significant for f in found} == {True, False}
    for f in found:
        assert f.low is not None
        assert f.high is not None
        assert f.significant == (f.low > 0 or f.high < 0)


def test_equivalence_is_two_one_sided_tests() -> None:
    seen = set()
    for seed in range(20):
        a, b = arms(seed, count=2)
        found = contrasts.assess(between(a, b), NO_POOL, margin=0.02)
        expected, *_ = ttost_paired(np.array(a), np.array(b), -0.02, 0.02)
        assert found.p_equivalence == pytest.approx(expected)
        assert found.equivalent == (10 * expected <= 0.05)
        seen.add(found.equivalent)
    assert seen == {True, False}


def test_detectable_effect_has_the_power_it_says() -> None:
    a, b = arms(7, count=2)
    found = contrasts.assess(between(a, b), NO_POOL)
    expected = TTestPower().solve_power(nobs=7, alpha=0.05 / 10, power=0.8)
    assert found.own_sd is not None
    assert found.detectable == pytest.approx(expected * found.own_sd, rel=1e-6)


def test_no_unit_sign_or_order_matters() -> None:
    values = arms(8)
    differences, spread = between(*values[:2]), contrasts.residual_spread([values])
    assert spread.sd is not None
    first = contrasts.assess(differences, spread, margin=0.02)
    turned = [-100 * d for d in reversed(differences)]
    second = contrasts.assess(turned, Spread(100 * spread.sd, spread.df), margin=2.0)
    assert first.low is not None
    assert second.p == pytest.approx(first.p)
    assert second.p_equivalence == pytest.approx(first.p_equivalence)
    assert second.high == pytest.approx(-100 * first.low)


def test_a_contrast_without_spread_is_decided_by_the_pool() -> None:
    found = contrasts.assess((0.03,) * 7, Spread(0.01, 18), margin=0.02)
    assert found.own_sd == 0
    assert found.pooled
    assert found.se == pytest.approx(0.01 * math.sqrt(2 / 7))


def test_a_collapsed_pool_and_one_seed_are_not_judged() -> None:
    found = contrasts.assess((0.5,), NO_POOL, margin=0.02)
    assert (found.low, found.high, found.se, found.detectable, found.own_sd) == (None,) * 5
    assert (found.p, found.p_adjusted, found.significant, found.equivalent) == (1, 1, False, False)


def test_one_seed_is_judged_by_the_pool() -> None:
    found = contrasts.assess((0.5,), Spread(0.01, 18))
    assert found.pooled
    assert found.significant
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / (0.01 * math.sqrt(2)), 18))


def rates(*halves: int) -> list[float]:
    """Learning rates on a grid of half decades, as logarithms that rounding has touched."""
    return [math.log10(10 ** (half / 2) / 3) + math.log10(3) for half in halves]


@pytest.mark.parametrize(("seeds", "significant"), [(4, False), (5, True), (7, True)])
def test_the_same_difference_in_every_seed_is_judged_by_its_chance(
    seeds: int, significant: bool
) -> None:
    a, b = rates(*range(seeds)), rates(*range(-2, seeds - 2))
    found = contrasts.assess(between(a, b), contrasts.residual_spread([[a, b]]), margin=0.5)
    assert found.estimate == pytest.approx(1)
    assert found.significant == significant
    assert not found.equivalent
    if significant:
        assert found.p == 4.0 ** (1 - seeds)
        assert (found.low, found.high, found.detectable) == (found.estimate, found.estimate, 0)
    else:
        assert (found.p, found.low, found.high) == (1, None, None)


def test_the_chance_of_one_difference_in_every_seed_is_below_its_bound() -> None:
    random = np.random.default_rng(9)
    worst = 0.0
    for law in random.dirichlet(np.full(5, 0.3), 2000):
        differences = np.convolve(law, law[::-1])
        worst = max(worst, float((differences**3).sum() - differences[4] ** 3))
    assert 0.9 * 2 / 4**3 < worst <= 4.0 ** (1 - 3)


def test_arms_that_are_alike_in_every_seed_are_equivalent() -> None:
    values = arms(10, count=1)[0]
    differences = between(values, values)
    found = contrasts.assess(differences, NO_POOL, margin=0.02)
    assert (found.estimate, found.p, found.significant, found.equivalent) == (0, 1, False, True)


def test_rounding_is_no_difference() -> None:
    found = contrasts.assess(between([0.1 + 0.2] * 7, [0.3] * 7), NO_POOL)
    assert found.estimate > 0
    assert not found.significant


def test_every_number_is_finite_or_null() -> None:
    differences = [(0.0,), (0.3,), (0.0,) * 7, (1e-300,) * 7, (0.1, 0.1), (0.0, 0.2), (1e9, -1e9)]
    spreads = [NO_POOL, Spread(0.0, 18), Spread(1e-300, 3), Spread(0.01, 1), Spread(1e9, 18)]
    for values, spread, margin in itertools.product(differences, spreads, (None, 0.02)):
        found = contrasts.assess(values, spread, margin=margin)
        for field in dataclasses.fields(Finding):
            value = getattr(found, field.name)
            assert value is None or math.isfinite(value), (field.name, values, spread)
        assert 0 <= found.p <= found.p_adjusted <= 1


def test_correlation_is_pearsons() -> None:
    a, b = arms(11, count=2)
    assert contrasts.correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize(
    ("a", "b"),
    [([0.1, 0.2], [0.1, 0.3]), ([0.3, 0.1 + 0.2, 0.3], [0.1, 0.2, 0.3]), ([], [])],
    ids=["two seeds", "no variation", "no seeds"],
)
def test_correlation_that_says_nothing_is_null(a: list[float], b: list[float]) -> None:
    assert contrasts.correlation(a, b) is None


def test_correlation_needs_the_same_seeds() -> None:
    with pytest.raises(ValueError):
        contrasts.correlation([0.1, 0.2, 0.3], [0.1, 0.2])
