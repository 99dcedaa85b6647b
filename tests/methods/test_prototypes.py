"""SwAV's prototypes and queue, DINO's prototypes and centre."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, SwaVLoss

from benchmark.core.errors import UserError
from tests.helpers.small import BATCH, batch, build, stir

FREEZE = 0.15
"""The first two of the steps in these tests, which are a tenth of the training each."""


def prototypes(network):
    return dict(network.named_parameters())["prototypes.weight"]


@pytest.mark.parametrize("method", ["swav", "dino"])
def test_frozen_prototypes_have_no_gradient_and_do_not_move(method):
    network = build(method, "resnet", "bn", freeze=FREEZE).train()
    weight = prototypes(network)
    # As the loop groups them: before the first step, with momentum and decay.
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    start = weight.detach().clone()
    if method == "swav":
        start = F.normalize(start, dim=1)
    for step in range(4):
        frozen = step / 10 < FREEZE
        before = network.projector[0].weight.detach().clone()
        optimizer.zero_grad()
        given = batch(method, step)
        network(given).loss.backward()
        optimizer.step()
        network.after_step(given.progress)
        assert (weight.grad is None) == frozen
        # SwAV's are set to length 1 again at each step, which leaves rounding.
        assert torch.allclose(weight, start, atol=1e-6) == frozen
        assert not torch.equal(network.projector[0].weight, before)
        if method == "dino" and frozen:
            (*_, teachers) = network.teacher.network
            torch.testing.assert_close(teachers.weight, start)


def test_swav_takes_prototypes_of_length_1():
    network = build("swav", "resnet", "bn").train()
    stir(network)
    with torch.no_grad():
        prototypes(network).mul_(7)
    network(batch("swav"))
    torch.testing.assert_close(prototypes(network).norm(dim=1), torch.ones(12))


def test_dino_measures_directions_alone():
    """Neither the length of a prototype nor that of an embedding matters."""
    network = build("dino", "resnet", "ln").train()
    stir(network)
    given = batch("dino")
    before = network(given).loss
    network.center.zero_()
    with torch.no_grad():
        prototypes(network).mul_(torch.linspace(0.5, 3, 12)[:, None])
        for parameter in network.projector[-1].parameters():
            parameter.mul_(4)
    torch.testing.assert_close(network(given).loss, before)
    scores = network.student()(given.views[0])
    assert scores.shape == (BATCH, 12)
    assert 0.1 < float(scores.detach().abs().max()) <= 1


def embeddings(network, views):
    return [F.normalize(network.projector(network.backbone(view)), dim=1) for view in views]


def test_swav_queue_is_first_in_first_out_and_used_once_full():
    network = build("swav", "resnet", "ln", queue=16, queue_from=0.15).train()
    stir(network)
    oracle = SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05)
    kept = [[], []]
    for step in range(6):
        given = batch("swav", step)
        network.prototypes.weight.data = F.normalize(network.prototypes.weight.data, dim=1)
        z = embeddings(network, given.views)
        scores = [network.prototypes(embedding) for embedding in z]
        queues = [torch.cat(past)[:16] for past in kept if past]
        full = step >= 4  # it starts at step 2 and takes 2 steps to fill
        assert full == (len(queues) == 2 and len(queues[0]) == 16)
        known = [network.prototypes(queue) for queue in queues] if full else None
        expected = oracle(scores, [], known).squeeze()
        found = network(given)
        torch.testing.assert_close(found.loss, expected)
        if full:  # and it matters
            assert abs(float((expected - oracle(scores, []).squeeze()).detach())) > 1e-3
        if step >= 2:
            kept = [[new.detach(), *past] for new, past in zip(z, kept, strict=True)]
        assert network.queue.shape == (2, 16, 8)
        assert not network.queue.requires_grad
        for place, past in enumerate(kept):
            held = torch.cat((*past, torch.zeros(16, 8)))[:16]
            torch.testing.assert_close(network.queue[place], held)
        with torch.no_grad():  # as a step of training would
            network.prototypes.weight.add_(0.1)
    assert "queue" in network.state_dict()  # a resumed run goes on with it


def test_swav_queue_of_no_whole_number_of_batches_is_refused():
    with pytest.raises(
        UserError, match="method swav: queue is 12, expected a multiple of the batch size 8"
    ):
        build("swav", "resnet", "bn", queue=12)


def test_dino_centre_follows_the_teachers_scores():
    network = build("dino", "resnet", "ln").train()
    stir(network)
    oracle = DINOLoss(12, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    for step in range(3):
        given = batch("dino", step)
        taught = [network.teacher(view, given, n) for n, view in enumerate(given.views)]
        learnt = [network.student()(view) for view in given.views]
        torch.testing.assert_close(network.center, oracle.center[0, 0])
        expected = oracle(taught, learnt)
        torch.testing.assert_close(network(given).loss, expected)
    assert float(network.center.abs().max()) > 0.01
    assert "center" in network.state_dict()  # a resumed run goes on with it


def test_dino_warms_the_teachers_temperature_up():
    """lightly's over five epochs, the first of which has the start and the last the end."""
    given = {"teacher_temperature": 0.07, "teacher_temperature_start": 0.02}
    network = build("dino", "resnet", "ln", temperature_warmup=0.4, center_momentum=1.0, **given)
    plain = build("dino", "resnet", "ln", center_momentum=1.0, **given)
    oracle = DINOLoss(
        12, warmup_teacher_temp=0.02, teacher_temp=0.07, warmup_teacher_temp_epochs=5,
        student_temp=0.1, center_momentum=1.0,
    )  # fmt: skip
    for changed in (network, plain):
        stir(changed.train())
        changed.start()
    losses = []
    for step in range(7):
        one = batch("dino", step)
        scores = [network.student()(view) for view in one.views]
        targets = [network.teacher(view, one, 0) for view in one.views]
        expected = oracle(targets, scores, epoch=step)
        losses.append((network(one).loss, plain(one).loss))
        torch.testing.assert_close(losses[-1][0], expected)
    same = [torch.equal(*pair) for pair in losses]
    assert same == [False] * 4 + [True] * 3


@pytest.mark.parametrize("start", [0.0, 0.1, 1 / 3, 0.7, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 30])
def test_swav_knows_when_its_queue_is_full_without_looking(start, steps):
    """As a queue that is looked into at every step knows it, also after a restart."""
    network = build("swav", "resnet", "ln", queue=16, queue_from=start)
    for step in range(steps):
        full = bool(network.queue[0, -1].any())
        assert network.filled(step, step / steps, 8) == full
        network.enqueue([torch.ones(8, 8)] * 2, step / steps)


@pytest.mark.parametrize("method", ["moco", "swav"])
def test_queues_stay_where_they_are_in_memory(method):
    """A CUDA graph replays a step on the addresses that it was recorded with."""
    network = build(method, "resnet", "ln", queue=8).train()
    place, before = network.queue.data_ptr(), network.queue.clone()
    network(batch(method)).loss.backward()
    assert network.queue.data_ptr() == place
    assert not torch.equal(network.queue, before)
