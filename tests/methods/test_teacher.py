"""The momentum encoder: how it follows its student, and where its norms get their statistics."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.methods.base import Policy
from benchmark.methods.teacher import Teacher, rising
from tests.helpers.small import BATCH, TRAINED, batch, build, stir

STATISTICS = ["batch", "running", "momentum", "eman"]
TEACHERS = [m for m in TRAINED if registry.facts("method", m)["teacher"]]


def training(statistics, shuffle=False):
    return {"teacher": {"statistics": statistics, "shuffle": shuffle}}


def rows(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(BATCH, 4, generator=generator) + torch.tensor([1.0, -1.0, 0.0, 3.0])


def one_norm(statistics):
    """A student that is one BN with a history, and a teacher that has started from it."""
    student = nn.Sequential(nn.BatchNorm1d(4))
    stir(student)
    student[0].running_mean.copy_(torch.tensor([0.5, 0.0, -1.0, 2.0]))
    student[0].running_var.copy_(torch.tensor([2.0, 1.0, 0.5, 4.0]))
    teacher = Teacher(nn.Sequential(nn.BatchNorm1d(4)), Policy(statistics, False))
    teacher.load(student)
    return student, teacher.train()


def given(progress):
    return batch("moco")._replace(progress=progress)


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9])
def test_statistics_follow_their_formulas(statistics, progress):
    student, teacher = one_norm(statistics)
    (layer,) = teacher.network
    mean, variance = student[0].running_mean.clone(), student[0].running_var.clone()
    alpha = 1 - (math.cos(math.pi * progress) + 1) / 2
    for seed in range(3):
        x = rows(seed)
        now = x.mean(0), ((x - x.mean(0)) ** 2).sum(0) / BATCH
        if statistics == "batch":
            used = now
        elif statistics == "momentum":  # Momentum² Teacher, equation 5
            mean = alpha * mean + (1 - alpha) * now[0]
            variance = alpha * variance + (1 - alpha) * now[1]
            used = mean, variance
        else:
            used = mean, variance
        expected = (x - used[0]) / (used[1] + 1e-5).sqrt() * layer.weight + layer.bias
        torch.testing.assert_close(teacher(x, given(progress), 0), expected)
        if statistics in ("batch", "running"):  # as BN does: the unbiased variance
            mean = 0.9 * mean + 0.1 * now[0]
            variance = 0.9 * variance + 0.1 * now[1] * BATCH / (BATCH - 1)
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, variance)
    teacher.eval()
    x = rows(9)
    expected = (x - mean) / (variance + 1e-5).sqrt() * layer.weight + layer.bias
    torch.testing.assert_close(teacher(x, given(progress), 0), expected)
    torch.testing.assert_close(layer.running_mean, mean)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_following_moves_parameters_and_under_eman_statistics_too(statistics):
    student, teacher = one_norm(statistics)
    stir(student, seed=1)
    student(rows())  # moves the student's statistics
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    teacher.follow(student, 0.8)
    for key, found in teacher.network.state_dict().items():
        follows = key.endswith(("weight", "bias")) or ("running" in key and statistics == "eman")
        mixed = 0.8 * before[key] + 0.2 * student.state_dict()[key]
        torch.testing.assert_close(found, mixed if follows else before[key])
        assert torch.equal(found, before[key]) != follows


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
@pytest.mark.parametrize("statistics", STATISTICS)
def test_teacher_differs_from_its_student_by_its_policy_alone(statistics, backbone):
    """With the same weights and statistics: the student in training, or as it is evaluated."""
    network = build("byol", backbone, "bn", training=training(statistics)).train()
    stir(network)
    view = batch("byol").views[0]
    for _ in range(2):
        network.student()(view + 1)  # a history unlike the batch
    network.teacher.load(network.student())
    student = copy.deepcopy(network.student())
    as_evaluated = student.eval()(view)
    as_trained = student.train()(view)
    found = network.teacher(view, given(0.0), 0)
    assert not torch.allclose(as_trained, as_evaluated, atol=1e-2)
    # At the start, the momentum policy gives history no weight.
    expected = as_trained if statistics in ("batch", "momentum") else as_evaluated
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["ln", "gn", "none-plain"])
def test_without_a_norm_of_the_batch_every_policy_is_the_same(norm):
    outputs = []
    for statistics in STATISTICS:
        network = build("byol", "vit", norm, training=training(statistics)).train()
        stir(network)
        outputs.append(network.teacher(batch("byol").views[0], given(0.5), 0))
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])


@pytest.mark.parametrize("statistics", ["running", "momentum"])
@pytest.mark.parametrize("norm", ["ghost-bn", "batch-renorm"])
def test_history_of_another_norm_of_the_batch_is_refused(norm, statistics):
    with pytest.raises(UserError, match=f"teacher statistics '{statistics}' need bn"):
        build("byol", "resnet", norm, training=training(statistics))


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("method", TEACHERS)
def test_teacher_takes_no_gradient_and_moves_after_the_step(method, statistics):
    network = build(method, "resnet", "bn", training=training(statistics)).train()
    stir(network)
    student = dict(network.student().named_parameters())
    before = {k: p.clone() for k, p in network.teacher.network.named_parameters()}
    assert list(student) == list(before)
    progress = 0.4
    network(batch(method)._replace(progress=progress)).loss.backward()
    for key, parameter in network.teacher.network.named_parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
        assert torch.equal(parameter, before[key])
    stir(network.student(), seed=5)
    network.after_step(progress)
    rises = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    momentum = 0.9 if method == "moco" else rises
    for key, parameter in network.teacher.network.named_parameters():
        expected = momentum * before[key] + (1 - momentum) * student[key].detach()
        torch.testing.assert_close(parameter, expected)
        assert not torch.equal(parameter, before[key])


@pytest.mark.parametrize("method", [m for m in TEACHERS if m != "moco"])
def test_momentum_rises_along_a_half_cosine(method):
    """BYOL §3.2, which MoCo v3 and DINO follow: τ = 1 - (1 - τ₀) (cos(π k / K) + 1) / 2."""
    network = build(method, "resnet", "bn", momentum=0.7)
    parameter = next(network.teacher.network.parameters())
    steps = 8
    for step in range(steps):
        with torch.no_grad():
            next(network.student().parameters()).fill_(1)
            parameter.fill_(0)
        network.after_step(step / steps)
        expected = 0.3 * (math.cos(math.pi * step / steps) + 1) / 2
        assert float(parameter.flatten()[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", TEACHERS)
@pytest.mark.parametrize(("start", "end"), [(0.7, 0.9), (0.8, 0.8)])
def test_momentum_may_rise_to_another_end_or_stay(method, start, end):
    """From .99 to .999 as solo-learn's MoCo v2+; constant, as lightly's BYOL and DINO on CIFAR-10."""
    network = build(method, "resnet", "bn", momentum=start, momentum_end=end)
    parameter = next(network.teacher.network.parameters())
    for step in range(8):
        with torch.no_grad():
            next(network.student().parameters()).fill_(1)
            parameter.fill_(0)
        network.after_step(step / 8)
        kept = end - (end - start) * (math.cos(math.pi * step / 8) + 1) / 2
        assert float(parameter.detach().flatten()[0]) == pytest.approx(1 - kept, rel=1e-4)


def test_rising():
    assert [rising(0.2, 1.0, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.6, 1.0])


class Seen(nn.Module):
    """Keeps what it was given, and gives it back."""

    def forward(self, x):
        self.given = x
        return x


def test_shuffling_permutes_and_puts_back():
    teacher = Teacher(Seen(), Policy("batch", True))
    x = torch.arange(BATCH)
    orders = []
    for step in range(3):
        for number in range(2):
            for _ in range(2):  # the same when asked again
                assert torch.equal(teacher(x, batch("moco", step), number), x)
                orders.append(tuple(teacher.network.given.tolist()))
    assert orders[::2] == orders[1::2]
    assert len(set(orders)) == 6  # another for each view and each step
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(BATCH))}
    assert tuple(range(BATCH)) not in orders
    plain = Teacher(Seen(), Policy("batch", False))
    plain(x, batch("moco"), 0)
    assert torch.equal(plain.network.given, x)


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
@pytest.mark.parametrize(("norm", "same"), [("ln", True), ("bn", True), ("ghost-bn", False)])
def test_shuffling_shows_only_where_part_of_the_batch_shares_statistics(norm, same, backbone):
    """Ghost BN has two groups here; one group is the whole batch, in whatever order."""
    outputs = {}
    for shuffle in (True, False):
        network = build("moco", backbone, norm, training=training("batch", shuffle)).train()
        stir(network)
        view = batch("moco").views[1]
        for step in range(2):
            outputs[shuffle, step] = network.teacher(view, batch("moco", step), 1)
    assert torch.allclose(outputs[False, 0], outputs[False, 1], atol=1e-5)
    assert torch.allclose(outputs[True, 0], outputs[False, 0], atol=1e-4) == same
    assert torch.allclose(outputs[True, 0], outputs[True, 1], atol=1e-4) == same


@pytest.mark.parametrize("statistics", STATISTICS)
def test_training_mode_reaches_all_but_an_eman_teacher(statistics):
    network = build("dino", "resnet", "bn", training=training(statistics)).train()
    modes = {m.training for m in network.teacher.network.modules()}
    assert modes == {statistics != "eman"}
    assert all(m.training for m in network.student().modules())
    network.eval()
    assert not any(m.training for m in network.modules())
    assert {m.training for m in network.train().teacher.network.modules()} == modes


@pytest.mark.parametrize("statistics", STATISTICS)
def test_half_precision_under_every_policy(statistics):
    losses = []
    for mixed in (False, True):
        network = build("byol", "resnet", "bn", training=training(statistics)).train()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            network(batch("byol"))
            losses.append(network(batch("byol", 1)).loss.item())
        assert all(b.dtype == torch.float32 for b in network.buffers() if b.is_floating_point())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
