"""Local views: how they are batched, and what the losses make of them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss, SwaVLoss
from torch import nn

from benchmark.components import registry
from benchmark.core.randomness import Draw
from benchmark.methods import losses
from benchmark.methods.base import Batch
from benchmark.methods.losses import sigreg, sinkhorn, soft_cross_entropy
from tests.helpers.small import BACKBONES, BATCH, NORMS, SIDE, build, images, legal, stir

LOCAL = sorted(n for n, f in registry.catalogue("method").items() if f.get("local_views"))
SIZES = (SIDE, SIDE, 8, 8, 8)
OPTIONS = {"lejepa": {"weight": 0.3}}


def batch(sizes=SIZES, step=0):
    """A batch of noise with a view of each size."""
    views = [
        images(BATCH, 100 * step + number)[:, :, :size, :size] for number, size in enumerate(sizes)
    ]
    return Batch(views, torch.zeros(BATCH, dtype=torch.long), Draw(0, step), 0.5)


def prepared(method, backbone, norm="bn", batching="joint", **changes):
    """A network off its initial weights, its teacher apart from its student."""
    training = {
        "view_batching": batching,
        "teacher": {"statistics": "batch", "shuffle": False},
    }
    changes = OPTIONS.get(method, {}) | changes
    network = build(method, backbone, norm, training=training, **changes).train()
    stir(network)
    if method == "dino":
        network.center.copy_(torch.linspace(-0.3, 0.3, 12))
    return network


def unit(rows):
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def embedded(backbone, head, views):
    """Two views of one size and others of another: a pass of the backbone each, one of the head."""
    features = [backbone(torch.cat(views[:2]))]
    if len(views) > 2:
        features.append(backbone(torch.cat(views[2:])))
    return list(head(torch.cat(features)).split(BATCH))


def each(backbone, head, views):
    return [head(backbone(view)) for view in views]


BATCHINGS = {"joint": embedded, "separate": each}


def pairs(logits, targets):
    """The mean cross-entropy of a view and another, global one: the terms, one by one."""
    terms = [
        -(targets[seen] * logits[view].log_softmax(1)).sum() / BATCH
        for seen in range(2)
        for view in range(len(logits))
        if view != seen
    ]
    assert len(terms) == 2 * (len(logits) - 1)
    return sum(terms) / len(terms)


def swav(network, given, embed):
    z = embed(network.backbone, network.projector, given.views)
    network.prototypes.weight.data = unit(network.prototypes.weight.data)
    scores = [unit(e) @ network.prototypes.weight.T for e in z]
    targets = [sinkhorn(score.detach(), 0.05, 3) for score in scores[:2]]
    loss = pairs([score / 0.1 for score in scores], targets)
    oracle = SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05)(scores[:2], scores[2:])
    torch.testing.assert_close(loss, oracle.squeeze())
    return loss


def dino(network, given, embed):
    def scored(student):
        backbone, projector, prototypes = student
        return backbone, lambda z: unit(projector(z)) @ unit(prototypes.weight).T

    scores = embed(*scored(network.student()), given.views)
    with torch.no_grad():
        taught = embed(*scored(copy.deepcopy(network.teacher.network)), given.views[:2])
    targets = [((output - network.center) / 0.04).softmax(1) for output in taught]
    loss = pairs([score / 0.1 for score in scores], targets)
    oracle = DINOLoss(12, teacher_temp=0.04, student_temp=0.1).to(loss)
    oracle.center.copy_(network.center)
    torch.testing.assert_close(loss, oracle(taught, scores))
    return loss


def lejepa(network, given, embed):
    z = embed(network.backbone, network.projector, given.views)
    middle = (z[0] + z[1]) / 2
    prediction = sum(((e - middle) ** 2).mean() for e in z) / len(z)
    directions = torch.randn(8, 16, generator=given.draw.generator("slices")).to(middle)
    gaussian = sum(sigreg(e, directions, 17) for e in z) / len(z)
    return 0.7 * prediction + 0.3 * gaussian


EQUATIONS = {"swav": swav, "dino": dino, "lejepa": lejepa}


def gradients(network, loss):
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, trained.values()), strict=True))


def test_every_method_with_local_views_is_written_out():
    assert sorted(EQUATIONS) == LOCAL


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", LOCAL)
def test_a_step_follows_the_papers_equations(method, backbone, batching):
    network, given = prepared(method, backbone, batching=batching).double(), batch()
    given = given._replace(views=[view.double() for view in given.views])
    expected = EQUATIONS[method](network, given, BATCHINGS[batching])
    wanted = gradients(network, expected)
    found = network(given).loss
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    for name, gradient in gradients(network, found).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-8, rtol=1e-6, msg=name)


@pytest.mark.parametrize("views", [2, 3, 8])
@pytest.mark.parametrize("method", ["swav", "dino"])
def test_pairs_are_of_a_global_view_and_any_other(method, views, monkeypatch):
    """Each pair once, by the logits and the distributions that the cross-entropy is given."""
    network, given = prepared(method, "vit", "ln"), batch((SIDE, SIDE, *[8] * (views - 2)))
    seen = []

    def logged(logits, target):
        seen.append((logits, target))
        return soft_cross_entropy(logits, target)

    monkeypatch.setattr(losses, "soft_cross_entropy", logged)
    network(given)
    logits = {id(one): None for one, _ in seen}
    targets = {id(other): None for _, other in seen}
    assert (len(logits), len(targets)) == (views, 2)
    numbers = {(list(logits).index(id(a)), list(targets).index(id(b))) for a, b in seen}
    assert len(numbers) == len(seen) == 2 * (views - 1)
    # No distribution is that of its own view: the first view, the first of the logits, has one target.
    assert sum(view == 0 for view, _ in numbers) == 1


def before(method, network, given):
    """The loss for two views as it was written before there were local ones."""
    joint = network.context.view_batching == "joint"

    def every(whole):
        if joint:
            return list(whole(torch.cat(list(given.views))).chunk(2))
        return [whole(view) for view in given.views]

    if method == "dino":
        scores = every(network.student())
        taught = copy.deepcopy(network.teacher.network)
        with torch.no_grad():
            outputs = every(taught)
        targets = [((output - network.center) / 0.04).softmax(1) for output in outputs]
        logits = [score / 0.1 for score in scores]
    else:
        z = every(nn.Sequential(network.backbone, network.projector))
        if method == "lejepa":
            z = torch.stack(z)
            prediction = (z - z.mean(0)).square().mean()
            directions = torch.randn(8, 16, generator=given.draw.generator("slices"))
            gaussian = torch.stack([sigreg(view, directions, 17) for view in z]).mean()
            return (1 - network.weight) * prediction + network.weight * gaussian
        with torch.no_grad():
            network.prototypes.weight.copy_(F.normalize(network.prototypes.weight, dim=1))
        scores = [network.prototypes(F.normalize(e, dim=1)) for e in z]
        targets = [sinkhorn(score.detach(), 0.05, 3) for score in scores]
        logits = [score / 0.1 for score in scores]
    pair = [soft_cross_entropy(logits[view], targets[1 - view]) for view in (0, 1)]
    return (pair[0] + pair[1]) / 2


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", LOCAL)
def test_two_views_have_the_same_bits_as_without_local_ones(method, backbone, batching):
    network, twin = (prepared(method, backbone, batching=batching) for _ in range(2))
    given = batch((SIDE, SIDE))
    expected, found = before(method, twin, given), network(given).loss
    assert torch.equal(found, expected)
    wanted = gradients(twin, expected)
    for name, gradient in gradients(network, found).items():
        assert torch.equal(gradient, wanted[name]), name
    for name, value in network.backbone.named_buffers():
        assert torch.equal(value, dict(twin.backbone.named_buffers())[name]), name


def statistics(norm):
    return norm.running_mean, norm.running_var, int(norm.num_batches_tracked)


def running(passes):
    """What a norm with momentum .1 keeps of passes of (n, C) values, from a mean of 0 and variance 1."""
    mean, var = torch.zeros(passes[0].shape[1]), torch.ones(passes[0].shape[1])
    for values in passes:
        centred = values - values.mean(0)
        mean = 0.9 * mean + 0.1 * values.mean(0)
        var = 0.9 * var + 0.1 * (centred**2).sum(0) / (len(values) - 1)
    return mean, var, len(passes)


def pixels(maps):
    """(N, C, H, W) → (N · H · W, C)."""
    return maps.movedim(1, 3).flatten(0, 2)


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("method", LOCAL)
def test_statistics_are_by_size_in_the_backbone_and_of_all_views_in_the_head(method, batching):
    """Jointly; else each view has its own. Worked out from what reaches the norms."""
    network, given = prepared(method, "resnet", batching=batching), batch()
    heads = []
    network.projector[0].register_forward_hook(lambda *given: heads.append(given[2].detach()))
    with torch.no_grad():
        maps = [pixels(network.backbone.net.conv1(view)) for view in given.views]
    network(given)
    sizes = [torch.cat(maps[:2]), torch.cat(maps[2:])] if batching == "joint" else maps
    torch.testing.assert_close(statistics(network.backbone.net.bn1), running(sizes))
    rows = [5 * BATCH] if batching == "joint" else [BATCH] * 5
    assert [len(values) for values in heads] == rows
    torch.testing.assert_close(statistics(network.projector[1]), running(heads))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_teacher_sees_the_global_views_alone(batching):
    network, given = prepared("dino", "resnet", batching=batching), batch()
    seen = []
    stem = network.teacher.network[0].net.conv1
    stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(given)
    assert torch.equal(torch.cat(seen), torch.cat(given.views[:2]))
    assert len(seen) == (1 if batching == "joint" else 2)


def test_swavs_queue_has_the_global_views_alone():
    network, given = prepared("swav", "resnet", "ln", queue=BATCH, queue_from=0.0), batch()
    expected = [
        F.normalize(network.projector(network.backbone(view)), dim=1) for view in given.views[:2]
    ]
    network(given)
    torch.testing.assert_close(network.queue, torch.stack(expected).detach())


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("headed", [False, True])
def test_outputs_come_in_the_order_of_the_views(backbone, batching, headed):
    """Without batch statistics no view's output depends on the others; sizes may come in any order."""
    network = prepared("swav", backbone, "ln", batching)
    given = batch((SIDE, 8, SIDE, 12, 8))
    head = network.projector if headed else None
    found = network.each_view(network.backbone, given.views, head)
    expected = [network.backbone(view) for view in given.views]
    if headed:
        expected = [network.projector(z) for z in expected]
    assert len(found) == 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "norm"), [(b, n) for b in BACKBONES for n in NORMS if legal("lejepa", b, n)]
)
def test_every_norm_takes_a_smaller_view_as_it_is(backbone, norm):
    """Every sample's statistics are of its own positions: a view's output is that of the view alone."""
    network, given = prepared("lejepa", backbone, norm, "separate"), batch()
    loss = network(given).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    if not registry.facts("norm", norm)["batch_dependent"]:
        small = given.views[-1]
        together = network.backbone(small)
        apart = torch.cat([network.backbone(one[None]) for one in small])
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", LOCAL)
def test_half_precision_trains_towards_the_same(method):
    found = []
    for mixed in (False, True):
        network, given = prepared(method, "vit", "ln"), batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = network(given).loss
        loss.backward()
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)
        found.append(loss.item())
    assert found[1] != found[0]
    assert found[1] == pytest.approx(found[0], rel=0.05, abs=0.01)
