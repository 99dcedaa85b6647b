"""Collapse is found where it was planted."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.diagnostics.collapse import embedding_std


@pytest.mark.parametrize("width", [8, 128])
def test_spread_evenly_it_is_one_over_the_root_of_the_width(width: int) -> None:
    z = torch.randn(20_000, width, generator=torch.Generator().manual_seed(0))
    assert embedding_std(7 * z) == pytest.approx(1 / math.sqrt(width), rel=0.01)


def test_one_direction_is_collapse_whatever_the_lengths() -> None:
    lengths = torch.linspace(0.1, 9, 50)[:, None]
    assert embedding_std(lengths * torch.tensor([[1.0, -2.0, 0.5]])) == pytest.approx(0, abs=1e-7)


def test_two_opposite_points() -> None:
    z = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    assert embedding_std(z) == pytest.approx(0.5)


def test_what_is_not_finite_has_no_value() -> None:
    assert math.isnan(embedding_std(torch.tensor([[1.0, float("nan")], [1.0, 2.0]])))
