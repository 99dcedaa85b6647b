"""Ghost BN against torch's BN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.core.errors import UserError
from benchmark.norms.batch import GhostBatchNorm
from benchmark.norms.factory import SectionNorms
from tests.helpers.small import build

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
ASSIGNMENTS = ("contiguous", "strided")


def members(assignment, groups, n):
    """The samples of each group, by number."""
    if assignment == "strided":
        return [[i for i in range(n) if i % groups == g] for g in range(groups)]
    return [[i for i in range(n) if i * groups // n == g] for g in range(groups)]


def with_affine(layer):
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return layer


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_one_group_is_bn(momentum, assignment):
    torch.manual_seed(0)
    ghost = with_affine(GhostBatchNorm(4, 1, assignment, momentum=momentum))
    plain = nn.BatchNorm2d(4, momentum=momentum)
    plain.load_state_dict(ghost.state_dict())
    for _ in range(3):
        x = 1 + 2 * torch.randn(6, 4, 3, 3)
        torch.testing.assert_close(ghost(x), plain(x))
    for name in BUFFERS:
        torch.testing.assert_close(getattr(ghost, name), getattr(plain, name))
    torch.testing.assert_close(ghost.eval()(x), plain.eval()(x))
    before = ghost.running_mean.clone()
    ghost(x + 1)
    assert torch.equal(ghost.running_mean, before)
    ghost.reset_running_stats()
    plain.reset_running_stats()
    for name in BUFFERS:
        assert torch.equal(getattr(ghost, name), getattr(plain, name))


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("positions", [(), (3, 2)], ids=["vector", "map"])
def test_groups_are_separate_bns(assignment, momentum, positions):
    torch.manual_seed(0)
    ghost = with_affine(GhostBatchNorm(4, 3, assignment, momentum=momentum))
    kind = nn.BatchNorm2d if positions else nn.BatchNorm1d
    separate = [kind(4, momentum=momentum) for _ in range(3)]
    for bn in separate:
        bn.load_state_dict(ghost.state_dict())
    # Every sample is elsewhere, so that statistics of other samples would show.
    offsets = torch.tensor([0, 5, 9, -7, 20, 3.0]).view(6, 1, *[1 for _ in positions])
    for step in range(3):
        x = (torch.randn(6, 4, *positions) + step + offsets).requires_grad_()
        cotangent = torch.randn(x.shape)
        found, expected = ghost(x), torch.empty_like(x)
        for group, bn in zip(members(assignment, 3, 6), separate, strict=True):
            expected[group] = bn(x[group])
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, x, cotangent), torch.autograd.grad(expected, x, cotangent)
        )
    # The update is linear: the mean of three histories is the history of the mean.
    for name in BUFFERS[:2]:
        mean = torch.stack([getattr(bn, name) for bn in separate]).mean(0)
        torch.testing.assert_close(getattr(ghost, name), mean)
    expected = F.batch_norm(
        x, ghost.running_mean, ghost.running_var, ghost.weight, ghost.bias, eps=1e-5
    )
    torch.testing.assert_close(ghost.eval()(x), expected)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_groups_are_of_samples_and_not_of_tokens(assignment):
    spec = {"norm": "ghost-bn", "groups": 2, "assignment": assignment}
    layer = SectionNorms("backbone", spec).layer("tokens", 8, 5)
    torch.manual_seed(0)
    x = torch.randn(6, 5, 8) + torch.arange(6)[:, None, None]
    found = layer(x)
    for group in members(assignment, 2, 6):
        flat = x[group].reshape(-1, 8)
        expected = (flat - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(found[group], expected.view(3, 5, 8))


def test_batch_that_cannot_be_cut_is_refused():
    layer = GhostBatchNorm(4, 4)
    with pytest.raises(UserError, match="4 groups do not divide a batch of 6"):
        layer(torch.randn(6, 4))
    assert not layer.running_mean.any()
    layer.eval()(torch.randn(6, 4))  # in evaluation mode there are no groups
    with pytest.raises(
        UserError,
        match="norm ghost-bn in the backbone: groups is 2, expected",
    ):
        build("supervised", "resnet", "ghost-bn", training={"batch_size": 7})


def test_groups_of_one_value_are_refused():
    layer = GhostBatchNorm(4, 6)
    with pytest.raises(UserError, match="6 groups of one value"):
        layer(torch.randn(6, 4))
    x = torch.randn(6, 4, 3, 3)
    torch.testing.assert_close(layer(x), F.instance_norm(x))


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_maps_and_their_gradients_stay_channels_last(assignment):
    layer = GhostBatchNorm(4, 3, assignment)
    x = torch.randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
