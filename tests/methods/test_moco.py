"""MoCo's loss and its queue; tests/methods/test_teacher.py is about its teacher."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from benchmark.core.errors import UserError
from tests.helpers.small import BATCH, batch, build, stir


def moco(backbone="resnet", norm="bn", **changes):
    network = build("moco", backbone, norm, **changes).train()
    stir(network)
    return network


def keys_of(network, images):
    """The normalized keys that the teacher would give, without a trace in its statistics."""
    return F.normalize(copy.deepcopy(network.teacher).network(images), dim=1)


def test_queue_is_first_in_first_out():
    network = moco(norm="ln")
    start = network.queue.clone()
    assert start.shape == (16, 8)
    torch.testing.assert_close(start.norm(dim=1), torch.ones(16))
    expected = start
    for step in range(3):
        given = batch("moco", step)
        expected = torch.cat((expected[BATCH:], keys_of(network, given.views[1])))
        network(given)
        assert network.queue.shape == (16, 8)
        assert not network.queue.requires_grad
        torch.testing.assert_close(network.queue, expected)
        torch.testing.assert_close(network.queue.norm(dim=1), torch.ones(16))
        network.after_step(given.progress)
    assert "queue" in network.state_dict()  # a resumed run goes on with it


def test_loss_is_against_the_queue_before_the_keys_join_it():
    network = moco(norm="ln")
    given = batch("moco")
    queries = F.normalize(network.student()(given.views[0]), dim=1)
    keys = keys_of(network, given.views[1])
    logits = torch.cat(((queries * keys).sum(1, keepdim=True), queries @ network.queue.T), 1)
    expected = -(logits / 0.2).log_softmax(1)[:, 0].mean()
    torch.testing.assert_close(network(given).loss, expected)


def test_symmetric_loss_is_the_mean_of_both_directions():
    both = moco(norm="ln", symmetric=True)
    one = moco(norm="ln", symmetric=False)
    one.load_state_dict(both.state_dict())
    given = batch("moco")
    start = one.queue.clone()
    losses = []
    for views in (given.views, given.views[::-1]):
        one.queue = start.clone()
        losses.append(one(given._replace(views=views)).loss)
    found = both(given).loss
    torch.testing.assert_close(found, torch.stack(losses).mean())
    assert abs((losses[0] - losses[1]).item()) > 1e-3
    keys = torch.cat([keys_of(both, given.views[1]), keys_of(both, given.views[0])])
    torch.testing.assert_close(both.queue, keys)  # both join, and push 16 out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": 24}, "queue is 24, expected at most 16: 0.25 of the 64 training images"),
        ({"queue": 12}, "queue is 12, expected a multiple of the batch size 8"),
        (
            {"queue": 8, "symmetric": True},
            "queue is 8, expected a multiple of the batch size 8 × 2",
        ),
    ],
)
def test_queue_that_would_mislead_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build("moco", "resnet", "bn", **changes)


@pytest.mark.parametrize("norm", ["gn", "ghost-bn"])
def test_shuffling_the_keys_shows_only_under_batch_statistics(norm):
    """With GN no more than rounding: each key is computed by itself."""
    losses = {}
    for shuffle in (True, False):
        policy = {"teacher": {"statistics": "batch", "shuffle": shuffle}}
        network = moco(norm=norm, training=policy)
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.05)
        losses[shuffle] = []
        for step in range(4):
            given = batch("moco", step)
            optimizer.zero_grad()
            outcome = network(given)
            outcome.loss.backward()
            optimizer.step()
            network.after_step(given.progress)
            losses[shuffle].append(outcome.loss.item())
    assert (losses[True] == pytest.approx(losses[False], rel=1e-5)) == (norm == "gn")
