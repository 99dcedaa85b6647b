"""Batch renormalization against algorithm 1 and against torch's BN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms
from benchmark.norms.renorm import BatchRenorm

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def drifting(step, *positions):
    """A batch (6, 4, …) whose mean and deviation move with the step."""
    generator = torch.Generator().manual_seed(step)
    spread = torch.tensor([0.2, 1.0, 2.0, 5.0]).view(1, 4, *[1 for _ in positions])
    return (1 + step) * spread * (0.5 + torch.randn(6, 4, *positions, generator=generator))


def test_limits_open_linearly_between_two_passes():
    layer = BatchRenorm(4, r_max=3.0, d_max=5.0, start=2, end=6)
    found = []
    for step in range(9):
        found.append(tuple(map(float, layer.limits())))
        layer(drifting(step))
    opening = [(1.5, 1.25), (2.0, 2.5), (2.5, 3.75)]
    assert found == [(1.0, 0.0)] * 3 + opening + [(3.0, 5.0)] * 3
    layer.eval()(drifting(0))
    assert int(layer.num_batches_tracked) == 9


@pytest.mark.parametrize(
    "closed",
    [
        {"r_max": 1.0, "d_max": 0.0, "start": 0, "end": 1},
        {"r_max": 3.0, "d_max": 5.0, "start": 50, "end": 60},
    ],
    ids=["always", "yet"],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_within_closed_limits_it_is_bn(closed, momentum):
    torch.manual_seed(0)
    renorm, plain = (
        BatchRenorm(4, momentum=momentum, **closed),
        nn.BatchNorm2d(4, momentum=momentum),
    )
    with torch.no_grad():
        for parameter in renorm.parameters():
            parameter.copy_(torch.randn(4))
    plain.load_state_dict(renorm.state_dict())
    for step in range(4):
        x, cotangent = drifting(step, 3, 2).requires_grad_(), torch.randn(6, 4, 3, 2)
        outputs = [layer(x) for layer in (renorm, plain)]
        torch.testing.assert_close(*outputs)
        gradients = [
            torch.autograd.grad(y, [x, *layer.parameters()], cotangent)
            for y, layer in zip(outputs, (renorm, plain), strict=True)
        ]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    for name in BUFFERS:
        torch.testing.assert_close(getattr(renorm, name), getattr(plain, name))
    torch.testing.assert_close(renorm.eval()(x), plain.eval()(x))
    renorm.reset_running_stats()
    plain.reset_running_stats()
    for name in BUFFERS:
        assert torch.equal(getattr(renorm, name), getattr(plain, name))


@pytest.mark.parametrize("positions", [(), (3, 2)], ids=["vector", "map"])
def test_open_limits_are_algorithm_1(positions):
    layer = BatchRenorm(4, r_max=1.5, d_max=0.5, start=0, end=3).double()
    mean, variance = torch.zeros(4).double(), torch.ones(4).double()
    weight, bias = (torch.randn(4, dtype=torch.float64) for _ in range(2))
    layer.load_state_dict(layer.state_dict() | {"weight": weight, "bias": bias})
    clipped = set()
    for step in range(6):
        share = min(step / 3, 1)
        r_max, d_max = 1 + 0.5 * share, 0.5 * share
        x = drifting(step, *positions).double().requires_grad_()
        cotangent = torch.randn(x.shape, dtype=torch.float64)
        parts = []
        for c in range(4):
            values = x[:, c]
            center = values.mean()
            deviation = ((values - center).pow(2).mean() + 1e-5).sqrt()
            now, running = center.item(), float(variance[c] + 1e-5) ** 0.5
            ratio, shift = deviation.item() / running, (now - float(mean[c])) / running
            r, d = min(max(ratio, 1 / r_max), r_max), min(max(shift, -d_max), d_max)
            clipped |= {("r", r == ratio), ("d", d == shift)}
            parts.append(((values - center) / deviation * r + d) * weight[c] + bias[c])
            mean[c] = 0.9 * mean[c] + 0.1 * now
            variance[c] = 0.9 * variance[c] + 0.1 * float(values.detach().var(unbiased=True))
        found, expected = layer(x), torch.stack(parts, 1)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, x, cotangent), torch.autograd.grad(expected, x, cotangent)
        )
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, variance)
    assert clipped == {(what, free) for what in "rd" for free in (True, False)}


def test_without_limits_training_normalizes_as_evaluation_does():
    layer = BatchRenorm(4, r_max=1e6, d_max=1e6, start=0, end=1)
    layer(drifting(0))
    for step in range(1, 4):
        x = drifting(step)
        expected = F.batch_norm(x, layer.running_mean.clone(), layer.running_var.clone(), eps=1e-5)
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_limits_that_open_backwards_are_refused():
    spec = {"norm": "batch-renorm", "r_max": 3.0, "d_max": 5.0, "start": 4, "end": 4}
    with pytest.raises(UserError, match="end 4 is not after start 4"):
        SectionNorms("backbone", spec).layer("map", 4, 9)
