"""MoCo's queue, its teacher and its shuffled keys."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from benchmark.errors import UserError
from tests.small import BATCH, batch, build, stir


def moco(family="resnet", norm="bn", **changes):
    network = build("moco", family, norm, **changes).train()
    stir(network)
    return network


def keys_of(network, images):
    """The normalized keys that the teacher would give, without a trace in its statistics."""
    return F.normalize(copy.deepcopy(network.teacher).network(images), dim=1)


def test_queue_is_first_in_first_out():
    network = moco(norm="ln", shuffle=False)
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
        network.after_step()
    assert "queue" in network.state_dict()  # a resumed run goes on with it


def test_loss_is_against_the_queue_before_the_keys_join_it():
    network = moco(norm="ln", shuffle=False)
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


@pytest.mark.parametrize("family", ["resnet", "vit"])
@pytest.mark.parametrize(("norm", "same"), [("ln", True), ("ghost-bn", False)])
def test_shuffling_shows_only_where_samples_share_statistics(norm, same, family):
    shuffled, plain = moco(family, norm), moco(family, norm, shuffle=False)
    given = batch("moco")
    found = shuffled.keys(given.views[1], given, "shuffle")
    expected = plain.keys(given.views[1], given, "shuffle")
    assert torch.allclose(found, expected, atol=1e-5) == same
    # Another permutation at every step, the same when asked again.
    again = moco(family, norm).keys(given.views[1], given, "shuffle")
    torch.testing.assert_close(again, found)
    later = batch("moco", 1)._replace(views=given.views)
    other = moco(family, norm).keys(given.views[1], later, "shuffle")
    assert torch.allclose(other, found, atol=1e-5) == same


def test_teacher_follows_the_student_without_a_gradient():
    network = moco()
    student = dict(network.student().named_parameters())
    before = {k: p.clone() for k, p in network.teacher.network.named_parameters()}
    network(batch("moco")).loss.backward()
    for key, parameter in network.teacher.network.named_parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(parameter, before[key])  # only after the step
    stir(network.student(), seed=5)
    network.after_step()
    for key, parameter in network.teacher.network.named_parameters():
        expected = 0.9 * before[key] + 0.1 * student[key].detach()
        torch.testing.assert_close(parameter, expected)
        assert not torch.equal(parameter, before[key])


@pytest.mark.parametrize("policy", ["batch", "eman"])
def test_where_a_teachers_statistics_come_from(policy):
    network = moco(shuffle=False, training={"teacher": policy})
    assert all(m.training == (policy == "batch") for m in network.teacher.network.modules())
    given = batch("moco")

    def statistics(module):
        return {k: b.clone() for k, b in module.named_buffers() if "running" in k}

    mine = statistics(network.teacher.network)
    view = given.views[1]
    moved = view.clone()
    moved[1:] += 3
    trial = copy.deepcopy(network.teacher)
    depends = not torch.allclose(trial(view)[0], trial(moved)[0], atol=1e-5)
    assert depends == (policy == "batch")

    network(given)
    seen = statistics(network.teacher.network)
    theirs = statistics(network.student())
    assert all(torch.equal(seen[k], mine[k]) == (policy == "eman") for k in mine)
    network.after_step()
    for key, found in statistics(network.teacher.network).items():
        expected = seen[key] if policy == "batch" else 0.9 * mine[key] + 0.1 * theirs[key]
        torch.testing.assert_close(found, expected)
    network.eval()
    assert not network.teacher.network.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": 24}, "queue 24 is more than a quarter of the 64 training images"),
        ({"queue": 12}, "queue 12 is not a multiple of 8 keys"),
        ({"queue": 8, "symmetric": True}, "queue 8 is not a multiple of 16 keys"),
    ],
)
def test_queue_that_would_mislead_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build("moco", "resnet", "bn", **changes)
