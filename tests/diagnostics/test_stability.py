"""Planted spikes are counted, and ordinary curves have none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from benchmark.analysis.claims.diagnostics import share_at
from benchmark.diagnostics.stability import FACTOR, WINDOW, measures, spikes
from benchmark.training.curves import UPDATE

STEPS = 1250


def noise(seed: int = 0, steps: int = STEPS) -> Tensor:
    return torch.randn(steps, generator=torch.Generator().manual_seed(seed))


def decay(steps: int = STEPS) -> Tensor:
    """From 5 to 3, as a contrastive loss."""
    return 3 + 2 * torch.exp(-torch.arange(steps) / 200)


@pytest.mark.parametrize("seed", range(40))
def test_noise_has_no_spikes(seed: int) -> None:
    assert spikes(noise(seed)) == 0
    assert spikes(decay() + 0.1 * noise(seed)) == 0


def test_smooth_curves_have_no_spikes() -> None:
    steps = torch.arange(STEPS)
    assert spikes(decay()) == 0
    assert spikes(-decay()) == 0  # a steady rise
    assert spikes(5 - steps / 1000) == 0
    assert spikes(steps / 1000) == 0
    assert spikes(torch.full((STEPS,), 5.545)) == 0
    assert spikes(torch.zeros(STEPS)) == 0


def test_the_rounding_of_a_constant_is_no_spike() -> None:
    curve = torch.full((STEPS,), -0.9)
    curve[::100] = torch.nextafter(curve[0], torch.tensor(0.0))
    assert len(curve.unique()) == 2
    assert spikes(curve) == 0


@pytest.mark.parametrize("places", [[51], [60], [1249], [200, 400, 1000], [300, 303, 306, 309]])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_planted_spikes_are_counted(places: list[int], scale: float) -> None:
    curve = decay() + 0.05 * noise()
    curve[places] += 2
    assert spikes(scale * curve) == len(places)
    assert spikes(scale * (curve - 10)) == len(places)


def test_a_fall_is_no_spike() -> None:
    curve = decay() + 0.05 * noise()
    curve[[200, 400]] -= 1
    assert spikes(curve) == 0


def test_neighbouring_steps_are_one_spike() -> None:
    curve = decay() + 0.05 * noise()
    curve[400:410] += 1
    assert spikes(curve) == 1
    # Between its peaks it stays 6 deviations up: below where a spike begins, above where it ends.
    curve[500:510] = decay()[500:510] + torch.tensor([2, 0.3]).repeat(5)
    assert spikes(curve) == 2


def test_a_lasting_rise_is_one_spike() -> None:
    curve = 0.05 * noise()
    curve[600:] += 2
    assert spikes(curve) == 1


def test_a_spike_does_not_hide_the_next() -> None:
    curve = 0.05 * noise()
    curve[300:320] += 100
    curve[330] += 1
    assert spikes(curve) == 2


def test_against_a_loop() -> None:
    curve = noise(steps=700).exp()
    array, found, inside, counted = curve.double().numpy(), 0, False, False
    for step in range(WINDOW, len(array)):
        before = array[step - WINDOW : step]
        deviation = scipy.stats.median_abs_deviation(before, scale="normal")
        height = (array[step] - np.median(before)) / deviation
        inside, counted = height > FACTOR / 2, counted and inside and height > FACTOR / 2
        if height > FACTOR and not counted:
            found, counted = found + 1, True
    assert found > 5
    assert spikes(curve) == found


def test_values_that_are_not_finite_are_left_out() -> None:
    curve = decay() + 0.05 * noise()
    curve[700] += 1
    broken = curve.clone()
    # One just before the spike, in the window that it is judged by.
    broken[[200, 500, 690]] = torch.tensor([float("inf"), -float("inf"), float("nan")])
    broken[1000:] = float("nan")
    assert spikes(broken) == spikes(curve) == 1


def test_too_short_a_curve_cannot_be_judged() -> None:
    assert spikes(torch.zeros(0)) is None
    assert spikes(noise(steps=WINDOW)) is None
    assert spikes(noise(steps=WINDOW + 1)) == 0
    assert spikes(torch.full((STEPS,), float("nan"))) is None


def test_a_training_that_blows_up_has_a_spike() -> None:
    curve = decay(300) + 0.05 * noise(steps=300)
    curve[290:] = 10 ** torch.arange(10.0)
    assert spikes(torch.cat([curve, torch.tensor([float("nan")])])) == 1


def test_gradient_norms_are_judged_by_their_factor() -> None:
    norms = (0.5 * noise()).exp()
    plain = spikes(norms)
    assert plain is not None
    assert plain > 0
    loss = decay() + 0.05 * noise(1)
    assert measures({"loss": loss, "gradient_norm": norms}) == {
        "loss_spikes": 0,
        "gradient_spikes": 0,
        "relative_update": {},
    }
    norms[[300, 800]] = 100
    loss[300] += 2
    assert measures({"loss": loss, "gradient_norm": norms}) == {
        "loss_spikes": 1,
        "gradient_spikes": 2,
        "relative_update": {},
    }


def test_a_gradient_of_zero_is_left_out() -> None:
    norms = (0.5 * noise()).exp()
    norms[[300, 800]] = torch.tensor([0.0, 100.0])
    assert measures({"loss": norms[:0], "gradient_norm": norms}) == {
        "loss_spikes": None,
        "gradient_spikes": 1,
        "relative_update": {},
    }


def test_the_relative_update_is_the_median_of_its_points() -> None:
    curves = {"loss": noise()[:9], "gradient_norm": noise()[:9].exp()}
    curve = torch.full((9,), float("nan"))
    curve[[2, 5, 8]] = torch.tensor([0.5, 0.1, 0.3])
    found = measures({**curves, f"{UPDATE}backbone": curve, f"{UPDATE}projector": curve[:2]})
    assert found["relative_update"]["backbone"] == pytest.approx(0.3)
    assert found["relative_update"]["projector"] is None


SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def test_halfway_between_two_marks() -> None:
    knn = [0.10, 0.15, 0.20, 0.24, 0.32, 0.36, 0.40]
    # .26 is a quarter of the way from .24 to .32: log2 of the share is −3 + ¼.
    assert share_at(SHARES, knn, 0.26) == pytest.approx(2**-2.75)
    assert share_at(SHARES, knn, 0.24) == pytest.approx(1 / 8)
    assert share_at(SHARES, knn, 0.40) == pytest.approx(1)


def test_halfway_is_the_first_crossing() -> None:
    knn = [0.10, 0.30, 0.10, 0.10, 0.10, 0.30, 0.10]
    assert share_at(SHARES, knn, 0.20) == pytest.approx(math.sqrt(1 / 64 * 1 / 32))


def test_halfway_never_reached() -> None:
    assert share_at(SHARES, [0.1] * 7, 0.2) is None
    assert share_at(SHARES, [None] * 7, 0.2) is None
    assert share_at([], [], 0.2) is None


def test_halfway_before_the_first_mark() -> None:
    assert share_at(SHARES, [0.3] * 7, 0.2) == 1 / 64
    assert share_at(SHARES, [0.2] + [0.1] * 6, 0.2) == 1 / 64


def test_marks_without_accuracy_are_passed_over() -> None:
    knn = [None, 0.10, None, 0.20, None, None, None]
    assert share_at(SHARES, knn, 0.15) == pytest.approx(1 / 16)
    assert share_at(SHARES, knn, 0.05) == 1 / 32
    assert share_at(SHARES, knn, 0.30) is None


def test_each_mark_has_one_accuracy() -> None:
    with pytest.raises(ValueError, match="zip"):
        share_at(SHARES, [0.1], 0.2)
