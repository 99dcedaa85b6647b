"""SepNorm against torch's BN on the class token and torch's LN on the other tokens."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmark.core.errors import UserError
from benchmark.evaluation.features import reestimate
from benchmark.norms.factory import Site
from benchmark.norms.history import POLICIES, give_history
from benchmark.norms.sepnorm import SepNorm
from tests.helpers.small import BATCH, SIDE, build, change, images, norms, stir

MOMENTUM, EPS = 0.3, 1e-3


def pair(affine: bool = True) -> tuple[SepNorm, nn.BatchNorm1d, nn.LayerNorm]:
    """A SepNorm off its initial values, and torch's two layers with the same parameters."""
    site = Site("tokens", 8, "backbone", 5, affine, eps=EPS, momentum=MOMENTUM, class_token=True)
    layer = norms("sepnorm").build(site).double()
    assert isinstance(layer, SepNorm)
    stir(layer)
    first = nn.BatchNorm1d(8, EPS, MOMENTUM, affine).double()
    others = nn.LayerNorm(8, EPS, affine).double()
    first.load_state_dict(layer.class_token.state_dict())
    others.load_state_dict(layer.others.state_dict())
    return layer, first, others


def expected(first: nn.Module, others: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.stack([first(x[:, 0]), *others(x[:, 1:]).unbind(1)], 1)


@pytest.mark.parametrize("affine", [True, False])
def test_it_is_torchs_bn_and_ln(affine):
    layer, first, others = pair(affine)
    assert len([*layer.parameters()]) == (4 if affine else 0)
    generator = torch.Generator().manual_seed(0)
    for step, length in enumerate((5, 3, 5)):  # fewer tokens, as of masked images
        x, cotangent = 2 * torch.randn(2, 6, length, 8, generator=generator).double() + step
        x.requires_grad_()
        found, wanted = layer(x), expected(first, others, x)
        torch.testing.assert_close(found, wanted)
        inputs = [x, *layer.parameters()], [x, *first.parameters(), *others.parameters()]
        torch.testing.assert_close(
            torch.autograd.grad(found, inputs[0], cotangent),
            torch.autograd.grad(wanted, inputs[1], cotangent),
        )
    torch.testing.assert_close(layer.class_token.state_dict(), first.state_dict())
    for each in (layer, first, others):
        each.eval()
    torch.testing.assert_close(layer(x), expected(first, others, x))


def test_each_part_sees_its_own_tokens_alone():
    x = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0)).double()
    layer = pair()[0]
    y, other = layer(x), x.clone()
    other[0, 0] += torch.arange(8)
    moved = (layer(other) - y).detach().abs().amax(2)
    assert bool((moved[:, 0] > 1e-3).all())  # the class token of every image, and no patch
    assert not moved[:, 1:].any()
    other = x.clone()
    other[0, 2] += torch.arange(8)
    moved = (layer(other) - y).detach().abs().amax(2)
    assert float(moved[0, 2]) > 1e-3
    moved[0, 2] = 0
    assert not moved.any()


def test_statistics_are_reestimated_from_the_class_tokens_of_masked_images():
    method = build("mae", "vit", "sepnorm")
    stir(method)
    network = method.eval_backbone
    layers = [module for module in network.modules() if isinstance(module, SepNorm)]
    assert len(layers) == 2 * len(network.net.blocks) + 1
    seen = {layer: [] for layer in layers}
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, given: seen[layer].append(given[0].detach()))
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(0, 256, (3 * BATCH, 3, SIDE, SIDE), generator=generator)
    assert reestimate(network, given.to(torch.uint8), BATCH, lambda x: 4 * x - 2, method.encode)
    for layer, inputs in seen.items():
        first = torch.stack([x[:, 0] for x in inputs])
        assert first.shape[:2] == (3, BATCH)
        assert {x.shape[1] for x in inputs} == {1 + 4}  # of 16 patches, 4 are visible
        torch.testing.assert_close(layer.class_token.running_mean, first.mean((0, 1)))
        torch.testing.assert_close(layer.class_token.running_var, first.var(1).mean(0))


def test_the_class_token_itself_makes_no_difference_in_training_mode():
    """BN takes away what all images share; a later patch token shows that the test sees differences."""
    network = build("supervised", "vit", "sepnorm").backbone.double().train()
    stir(network)
    x = images().double()
    before = copy.deepcopy(network).features(x)
    with torch.no_grad():
        network.net.cls_token.add_(torch.arange(16.0) / 16)
    torch.testing.assert_close(copy.deepcopy(network).features(x), before, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        network.net.pos_embed[:, 1].add_(torch.arange(16.0) / 16)
    moved = network.features(x)["class_token"] - before["class_token"]
    assert float(moved.detach().abs().max()) > 1e-3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_teachers_class_token_has_stored_statistics(policy):
    """`running`: the output is that of evaluation mode, and the batch joins the statistics."""
    layer, first, _ = pair()
    x = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0)).double()
    network = nn.Sequential(layer)
    (historic,) = give_history(network, policy)
    network.double()
    historic.history = 1.0  # the weight of the history under `momentum`
    assert network[0].class_token is historic
    wanted = copy.deepcopy(network).eval()(x)
    torch.testing.assert_close(network.train()(x), wanted)
    first(x[:, 0])
    if policy == "running":
        torch.testing.assert_close(historic.running_mean, first.running_mean)
        torch.testing.assert_close(historic.running_var, first.running_var)


LAYOUTS = {
    "queries and keys have no class token at their place": {"qk_norm": True},
    "a pooled embedding": {"final_norm": "after-pool"},
    "a class token alone has no others": {"final_norm": "class-token"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_sites_of_a_vit_that_are_no_sequence_are_refused(monkeypatch, layout):
    change(monkeypatch, "backbone", "vit", **layout)
    with pytest.raises(UserError, match=r"'sepnorm' is not defined at .*begin with a class token"):
        build("supervised", "vit", "sepnorm")
    change(monkeypatch, "backbone", "vit", mlp_norm=True, qk_norm=False, final_norm="before-pool")
    network = build("supervised", "vit", "sepnorm")
    assert isinstance(network.backbone.net.blocks[0].mlp.norm, SepNorm)


def test_another_norm_can_be_where_it_is_not_defined(monkeypatch):
    change(monkeypatch, "backbone", "vit", final_norm="class-token")
    spec = {"norm": "sepnorm", "parts": [{"sites": "final", "norm": "bn"}]}
    net = build("supervised", "vit", "sepnorm", spec=spec).backbone.net
    assert isinstance(net.norm.layer, nn.BatchNorm1d)
    assert isinstance(net.blocks[0].norm1, SepNorm)
