"""Ghost BN against torch's BN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.norms.batch import GhostBatchNorm

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_one_group_is_bn(momentum):
    torch.manual_seed(0)
    ghost, plain = GhostBatchNorm(4, 1, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)
    with torch.no_grad():
        for mine, theirs in zip(ghost.parameters(), plain.parameters(), strict=True):
            mine.copy_(torch.randn(4))
            theirs.copy_(mine)
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


@pytest.mark.parametrize("momentum", [0.1, None])
def test_groups_are_separate_bns_over_contiguous_parts(momentum):
    torch.manual_seed(0)
    ghost = GhostBatchNorm(4, 3, momentum=momentum)
    separate = [nn.BatchNorm1d(4, momentum=momentum) for _ in range(3)]
    for step in range(3):
        # The parts differ, so that statistics of other parts, or of the whole, would show.
        x = torch.randn(6, 4) + step + torch.tensor([0, 0, 5, 5, 9, 9.0])[:, None]
        found = ghost(x)
        expected = torch.cat([bn(x[2 * g : 2 * g + 2]) for g, bn in enumerate(separate)])
        torch.testing.assert_close(found, expected)
    # The update is linear: the mean of three histories is the history of the mean.
    for name in BUFFERS[:2]:
        mean = torch.stack([getattr(bn, name) for bn in separate]).mean(0)
        torch.testing.assert_close(getattr(ghost, name), mean)
    expected = (x - ghost.running_mean) / (ghost.running_var + 1e-5).sqrt()
    torch.testing.assert_close(ghost.eval()(x), expected)


def test_batch_that_cannot_be_cut_is_refused():
    layer = GhostBatchNorm(4, 4)
    with pytest.raises(UserError, match="4 groups do not divide a batch of 6"):
        layer(torch.randn(6, 4))
    assert not layer.running_mean.any()
    layer.eval()(torch.randn(6, 4))  # in evaluation mode there are no groups
