"""The learning rate of each step and the images of each batch."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.planning.configuration import ScheduleConfig
from benchmark.training.loop import batch_indices, rate_at


def test_rate_at_points_one_can_work_out():
    rates = [rate_at(step, 110, 0.3, 1 / 11) for step in range(110)]
    assert rates[:10] == pytest.approx([0.03 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.3)  # the peak, held once
    assert rates[60] == pytest.approx(0.15)  # half of the way down
    assert rates[85] == pytest.approx(0.15 * (1 - 0.5**0.5))
    assert 0 < rates[-1] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_rate_follows_torchs_schedulers(warmup):
    steps, rising = 40, round(40 * warmup)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rising)
    for step in range(rising, steps):
        assert rate_at(step, steps, 0.2, warmup) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_a_cosine_to_an_end_is_torchs_with_a_minimum(warmup):
    steps, rising = 40, round(40 * warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rising, eta_min=0.2 / 8)
    for step in range(rising, steps):
        found = rate_at(step, steps, 0.2, warmup, ScheduleConfig(end=1 / 8))
        assert found == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert rate_at(0, steps, 0.2, 0.25, ScheduleConfig(end=1 / 8)) == pytest.approx(0.02)


def test_drops_are_torchs_milestones():
    """Of the recipe of rotation prediction: 200 epochs, a fifth at 60, 120 and 160, of 7 steps each."""
    schedule = ScheduleConfig(drop_at=(0.3, 0.6, 0.8), drop_by=0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, [60 * 7, 120 * 7, 160 * 7], gamma=0.2)
    for step in range(200 * 7):
        found = rate_at(step, 200 * 7, 0.1, 0.0, schedule)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        drops.step()
    assert rate_at(4, 1400, 0.1, 0.05, schedule) == pytest.approx(0.1 * 5 / 70)


@pytest.mark.parametrize("schedule", [ScheduleConfig(), ScheduleConfig(constant=("predictor",))])
def test_without_an_end_or_drops_the_bits_are_those_of_the_plain_cosine(schedule):
    for step in range(30, 331):
        plain = 0.3 * 0.5 * (1 + math.cos(math.pi * (step - 30) / 301))
        assert rate_at(step, 331, 0.3, 30 / 331, schedule) == plain


def test_each_epoch_is_a_permutation_without_the_incomplete_batch():
    epochs = []
    for epoch in range(3):
        batches = [batch_indices(5, 6 * epoch + place, 16, 100) for place in range(6)]
        assert [len(indices) for indices in batches] == [16] * 6
        seen = torch.cat(batches)
        assert len(seen.unique()) == 96
        assert 0 <= int(seen.min()) <= int(seen.max()) < 100
        epochs.append(seen)
    left_out = [set(range(100)) - set(seen.tolist()) for seen in epochs]
    assert not torch.equal(epochs[0], epochs[1])
    assert left_out[0] != left_out[1]  # not always the same images


def test_order_depends_on_the_seed_alone():
    first = batch_indices(5, 7, 16, 100)
    torch.manual_seed(9)
    torch.rand(3)
    assert torch.equal(batch_indices(5, 7, 16, 100), first)
    assert not torch.equal(batch_indices(6, 7, 16, 100), first)
