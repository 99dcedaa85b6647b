"""Whether two views are one BN batch or two, in the student and in its teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.components import registry
from tests.helpers.small import BACKBONES, BATCH, batch, build

TWO = [m for m, facts in registry.catalogue("method").items() if facts["views"] == 2]
TEACHERS = [m for m in TWO if registry.facts("method", m)["teacher"]]
CHANGES = {"moco": {"symmetric": True}}
"""What makes the student of a method see both views."""


def stepped(method, batching, backbone="resnet", shuffle=False, **changes):
    """A method after one forward pass, and what it was given."""
    training = {
        "view_batching": batching,
        "teacher": {"statistics": "batch", "shuffle": shuffle},
    }
    changes = CHANGES.get(method, {}) | changes
    network = build(method, backbone, "bn", training=training, **changes).train()
    given = batch(method)
    network(given)
    return network, given


def first_norm(network):
    return next(m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d))


def passes(network):
    """How many batches each BN of a network has seen, which must be the same for all."""
    (count,) = {int(b) for name, b in network.named_buffers() if name.endswith("batches_tracked")}
    return count


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", TWO)
def test_joint_views_are_one_batch_and_separate_ones_are_two(method, backbone):
    for batching, count in (("joint", 1), ("separate", 2)):
        network, _ = stepped(method, batching, backbone)
        assert passes(network.backbone) == count
        assert passes(network.projector) == count
        if method in TEACHERS:
            assert passes(network.teacher.network) == count


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("method", TWO)
def test_statistics_of_joint_views_are_those_of_both(method, shuffle):
    """Of the stem's norm, from its convolution alone: the running ones start at 0 and 1."""
    network, given = stepped(method, "joint", shuffle=shuffle)
    for part in [network.backbone, *([network.teacher.network[0]] if method in TEACHERS else [])]:
        with torch.no_grad():
            maps = part.net.conv1(torch.cat(list(given.views))).movedim(1, 0).flatten(1)
        norm = first_norm(part)
        torch.testing.assert_close(norm.running_mean, 0.1 * maps.mean(1))
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * maps.var(1, unbiased=True))


@pytest.mark.parametrize("method", TWO)
def test_batching_shows_in_the_loss_under_batch_statistics_alone(method):
    losses = {}
    for norm in ("bn", "ln"):
        for batching in ("joint", "separate"):
            changes = CHANGES.get(method, {})
            training = {"view_batching": batching}
            network = build(method, "resnet", norm, training=training, **changes).train()
            given = batch(method)
            views = [given.views[0], 3 * given.views[1] + 1]  # statistics of their own
            losses[norm, batching] = float(network(given._replace(views=views)).loss.detach())
    assert losses["ln", "joint"] == pytest.approx(losses["ln", "separate"], rel=1e-4)
    assert losses["bn", "joint"] != pytest.approx(losses["bn", "separate"], rel=1e-4)


def test_keys_of_one_view_are_a_batch_of_their_own_whatever_the_batching():
    for batching in ("joint", "separate"):
        network, _ = stepped("moco", batching, symmetric=False)
        assert passes(network.backbone) == passes(network.teacher.network) == 1


@pytest.mark.parametrize("batching", ["joint", "separate"])
def test_symmetric_keys_are_those_of_the_other_view(batching):
    """MoCo's queue takes the keys of the second view, then those of the first."""
    network, given = stepped("moco", batching)
    twin = build(
        "moco", "resnet", "bn", symmetric=True,
        training={"view_batching": batching, "teacher": {"statistics": "batch", "shuffle": False}},
    ).train()  # fmt: skip
    with torch.no_grad():
        order = [given.views[1], given.views[0]]
        taught = twin.teacher.network
        keys = (
            taught(torch.cat(order))
            if batching == "joint"
            else torch.cat([taught(view) for view in order])
        )
    newest = network.queue[-2 * BATCH :]
    torch.testing.assert_close(newest, nn.functional.normalize(keys, dim=1))
