"""The loss of one step against the papers' equations, written out with a method's own modules."""

from __future__ import annotations

import copy

import pytest
import torch
from lightly.loss import SwaVLoss
from torch import nn

from benchmark.core.randomness import Draw
from tests.helpers.small import BACKBONES, BATCH, TRAINED, batch, build, stir

OPTIONS = {"mocov3": {"temperature": 0.3}, "lejepa": {"weight": 0.3}}


def embed(network, modules, inputs):
    """What a chain of modules makes of each view, in one BN batch or in one for each."""
    joint = network.context.view_batching == "joint"
    outputs = [torch.cat(tuple(inputs))] if joint else list(inputs)
    for module in modules:
        outputs = [module(output) for output in outputs]
    return [outputs[0][:BATCH], outputs[0][BATCH:]] if joint else outputs


def teach(network, views):
    """What the teacher makes of each view, batched as its student's, without a trace in it."""
    with torch.no_grad():
        return embed(network, [copy.deepcopy(network.teacher).network], views)


def unit(rows):
    return rows / rows.square().sum(1, keepdim=True).sqrt()


def standard(columns):
    centred = columns - columns.mean(0)
    return centred / ((centred**2).mean(0) + 1e-5).sqrt()


def standard_rows(rows):
    return standard(rows.T).T


LOSS_NORMS = {"none": lambda z: z, "l2": unit, "layer": standard_rows, "batch": standard}


def cross_entropy(logits, target):
    """-Σ p log softmax, in the mean over the batch."""
    return -(target * (logits - logits.exp().sum(1, keepdim=True).log())).sum() / len(logits)


def byol(network, given):
    predictions = embed(
        network, [network.backbone, network.projector, network.predictor], given.views
    )
    targets = teach(network, given.views)
    if network.loss_norm != "l2":
        hat = LOSS_NORMS[network.loss_norm]
        pairs = [(hat(predictions[a]), hat(targets[1 - a])) for a in (0, 1)]
        return sum(((p - z) ** 2).sum() / BATCH for p, z in pairs)
    cosines = [(unit(predictions[a]) * unit(targets[1 - a])).sum(1) for a in (0, 1)]
    return sum((2 - 2 * cosine).mean() for cosine in cosines)


def simsiam(network, given):
    z = embed(network, [network.backbone, network.projector], given.views)
    p = embed(network, [network.predictor], z)
    if network.stop_gradient:
        z = [embedding.detach() for embedding in z]
    return -sum((unit(p[a]) * unit(z[1 - a])).sum(1).mean() / 2 for a in (0, 1))


def mocov3(network, given):
    queries = embed(network, [network.backbone, network.projector, network.predictor], given.views)
    keys = teach(network, given.views)
    right = torch.eye(BATCH)
    return sum(
        2 * 0.3 * cross_entropy(unit(queries[a]) @ unit(keys[1 - a]).T / 0.3, right) for a in (0, 1)
    )


def barlow(network, given):
    z = embed(network, [network.backbone, network.projector], given.views)
    z = [LOSS_NORMS[network.loss_norm](e) for e in z]
    distance = (torch.einsum("ni,nj->ij", *z) / BATCH - torch.eye(8)) ** 2
    return 0.1 * (distance * (0.005 + 0.995 * torch.eye(8))).sum()


def vicreg(network, given):
    z = embed(network, [network.backbone, network.projector], given.views)
    z = [LOSS_NORMS[network.loss_norm](e) for e in z]
    total = 25 * ((z[0] - z[1]) ** 2).sum() / (BATCH * 8)
    for embedding in z:
        covariance = torch.cov(embedding.T)
        deviation = (covariance.diagonal() + 1e-4).sqrt()
        total = total + 25 / 2 * (1 - deviation).clamp(min=0).sum() / 8
        total = total + ((covariance * (1 - torch.eye(8))) ** 2).sum() / 8
    return total


def swav(network, given):
    z = embed(network, [network.backbone, network.projector], given.views)
    # Set to length 1 before the step, outside of the gradient.
    network.prototypes.weight.data = unit(network.prototypes.weight.data)
    scores = [unit(e) @ network.prototypes.weight.T for e in z]
    return SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05)(scores, []).squeeze()


def dino(network, given):
    scores = embed(network, [network.backbone, network.projector], given.views)
    scores = [unit(score) @ unit(network.prototypes.weight).T for score in scores]
    targets = [
        ((score - network.center) / 0.04).softmax(1) for score in teach(network, given.views)
    ]
    return sum(cross_entropy(scores[a] / 0.1, targets[1 - a]) for a in (0, 1)) / 2


def lejepa(network, given):
    z = embed(network, [network.backbone, network.projector], given.views)
    middle = (z[0] + z[1]) / 2
    prediction = sum(((e - middle) ** 2).mean() for e in z) / 2
    directions = torch.randn(8, 16, generator=given.draw.generator("slices")).double()
    t = torch.linspace(-5, 5, 17).double()
    gaussian = (-(t**2) / 2).exp()
    statistics = []
    for embedding in z:
        x = embedding @ unit(directions.T).T
        empirical = (1j * x[:, :, None] * t).exp().mean(0)
        heights = (empirical - gaussian).abs() ** 2 * gaussian
        statistics.append(BATCH * torch.trapezoid(heights, t).mean())
    return 0.7 * prediction + 0.3 * sum(statistics) / 2


EQUATIONS = {
    "byol": byol, "simsiam": simsiam, "mocov3": mocov3, "barlow": barlow, "vicreg": vicreg,
    "swav": swav, "dino": dino, "lejepa": lejepa,
}  # fmt: skip
VARIANTS = [
    ("byol", {"loss_norm": "none"}),
    ("byol", {"loss_norm": "layer"}),
    ("byol", {"loss_norm": "batch"}),
    ("simsiam", {"stop_gradient": False}),
    ("barlow", {"loss_norm": "none"}),
    ("vicreg", {"loss_norm": "l2"}),
    ("vicreg", {"loss_norm": "batch"}),
]
ELSEWHERE = {"rotation", "simclr", "moco", "mae", "supervised"}
"""Methods whose loss tests/methods/test_methods.py and test_moco.py write out."""


def prepared(method, backbone, norm="bn", **changes):
    """A network off its initial weights, its teacher apart from its student, and a batch."""
    network = build(method, backbone, norm, **OPTIONS.get(method, {}), **changes).double().train()
    stir(network)
    if method == "dino":
        network.center.copy_(torch.linspace(-0.3, 0.3, 12))
    given = batch(method, 3)
    return network, given._replace(views=[view.double() for view in given.views])


def gradients(network, loss):
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, trained.values()), strict=True))


def test_every_method_is_written_out_somewhere():
    assert set(EQUATIONS) | ELSEWHERE == set(TRAINED)


def assert_follows_the_equations(method, network, given):
    expected = EQUATIONS[method](network, given)
    wanted = gradients(network, expected)
    found = network(given).loss
    assert found.shape == ()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    for name, gradient in gradients(network, found).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-8, rtol=1e-6, msg=name)


@pytest.mark.parametrize("batching", ["separate", "joint"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", EQUATIONS)
def test_a_step_follows_the_papers_equations(method, backbone, batching):
    network, given = prepared(method, backbone, training={"view_batching": batching})
    assert_follows_the_equations(method, network, given)


@pytest.mark.parametrize(("method", "changes"), VARIANTS)
def test_a_variant_follows_its_equations(method, changes):
    network, given = prepared(method, "resnet", **changes)
    assert_follows_the_equations(method, network, given)


@pytest.mark.parametrize("method", EQUATIONS)
def test_views_may_change_places(method):
    """Every loss here is symmetric: the same with the two views exchanged, unlike MoCo's."""
    network, given = prepared(method, "vit", "ln")
    found = network(given).loss
    if method == "dino":  # the step before moved the centre
        network.center.copy_(torch.linspace(-0.3, 0.3, 12))
    swapped = network(given._replace(views=given.views[::-1])).loss
    torch.testing.assert_close(found, swapped)


@pytest.mark.parametrize("method", ["byol", "mocov3", "dino", "moco"])
def test_nothing_flows_into_the_teacher(method):
    network, given = prepared(method, "resnet")
    network.teacher.requires_grad_(True)
    views = [view.requires_grad_() for view in given.views]
    assert not network.teacher(views[0], given, 0).requires_grad
    network(given).loss.backward()
    assert all(p.grad is None for p in network.teacher.parameters())


def test_simsiam_without_its_stop_gradient():
    """The loss is the same and its gradient another: the target's part is what is stopped."""
    with_stop, given = prepared("simsiam", "resnet")
    without, _ = prepared("simsiam", "resnet", stop_gradient=False)
    losses = [network(given).loss for network in (with_stop, without)]
    torch.testing.assert_close(*losses)
    first, second = (
        gradients(n, loss) for n, loss in zip((with_stop, without), losses, strict=True)
    )
    for name in first:
        same = torch.allclose(first[name], second[name], rtol=1e-3, atol=1e-8)
        # The predictor is not in the target's branch.
        assert same == name.startswith("predictor."), name


def test_simsiam_target_takes_no_gradient():
    """With a predictor of zero weights nothing is left of the gradient but the target's part."""
    for stop in (True, False):
        network, given = prepared("simsiam", "resnet", "ln", stop_gradient=stop)
        nn.init.zeros_(network.predictor[0].weight)
        reached = [
            gradient.abs().max().item() > 1e-12
            for name, gradient in gradients(network, network(given).loss).items()
            if not name.startswith("predictor.")
        ]
        assert any(reached) == all(reached) == (not stop)


def test_lejepas_directions_are_drawn_anew_each_step():
    network, given = prepared("lejepa", "resnet")
    losses = [network(given).loss for _ in range(2)]
    assert torch.equal(*losses)
    step, seed = (network(given._replace(draw=draw)).loss for draw in (Draw(0, 4), Draw(1, 3)))
    assert len({losses[0].item(), step.item(), seed.item()}) == 3
    # They are all that a step draws.
    network.weight = 0.0
    other = given._replace(draw=Draw(1, 4))
    assert torch.equal(network(given).loss, network(other).loss)


@pytest.mark.parametrize("method", TRAINED)
def test_what_is_judged(method):
    """DINO's teacher; of all others, the network that the gradient trains."""
    network = build(method, "vit", "ln")
    teaches = method == "dino"
    assert network.eval_backbone is (network.teacher.network[0] if teaches else network.backbone)
    assert all(p.requires_grad != teaches for p in network.eval_backbone.parameters())
    assert set(network.state_dict()) >= {
        f"{'teacher.network.0' if teaches else 'backbone'}.{key}"
        for key in network.eval_backbone.state_dict()
    }


@pytest.mark.parametrize("method", ["mocov3", "swav", "dino"])
def test_pretext_accuracy_is_a_share(method):
    network, given = prepared(method, "resnet")
    pretext = network(given).pretext
    assert not pretext.requires_grad
    shares = torch.arange(2 * BATCH + 1) / (2 * BATCH)
    assert bool(torch.isclose(shares, pretext.float()).any())
    same = network(given._replace(views=[given.views[0]] * 2)).pretext
    if method != "mocov3":  # both views have the same target
        assert float(same) == 1
