"""What is particular to group normalization, and to weight standardization."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.norms.factory import SectionNorms
from tests.helpers.small import build, norms, stir


def test_groups_of_one_channel_in_a_map_are_instance_norm():
    layer = SectionNorms("backbone", {"norm": "gn", "groups": 8}).layer("map", 8, 16)
    x = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), F.instance_norm(x))


@pytest.mark.parametrize("shape", [(3, 8), (3, 5, 8), (3, 8, 4, 4)])
def test_one_group_is_ln_and_of_a_map_is_not_that_of_each_position(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kind = {2: "vector", 3: "tokens", 4: "map"}[len(shape)]
    one = SectionNorms("backbone", {"norm": "gn", "groups": 1}).layer(kind, 8, 16)
    torch.testing.assert_close(one(x), norms("ln").layer(kind, 8, 16)(x))
    away = (one(x) - norms("ln-position").layer(kind, 8, 16)(x)).detach().abs().max()
    assert (float(away) > 0.1) == (kind == "map")


@pytest.mark.parametrize("groups", [1, 2])
def test_a_token_is_normalized_alone(groups):
    layer = SectionNorms("backbone", {"norm": "gn", "groups": groups}).layer("tokens", 8, 5)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 1:] += 7 * torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x)[:, 0], layer(other)[:, 0])


def filters(conv):
    """What a convolution does to each unit of a patch of its size: (out, in · kernel²)."""
    alone = copy.deepcopy(conv)
    alone.padding = (0, 0)
    shape = conv.weight.shape[1:]
    responses = alone(torch.eye(shape.numel()).view(-1, *shape))[:, :, 0, 0]
    return (responses if conv.bias is None else responses - conv.bias).T.detach()


def convolutions(network):
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}


@pytest.mark.parametrize(("method", "backbone"), [("mae", "resnet"), ("supervised", "vit")])
def test_standardized_filters_stand_before_norms_and_nowhere_else(method, backbone):
    network, plain = build(method, backbone, "gn-ws"), build(method, backbone, "gn")
    stir(network)
    stir(plain)
    found, untouched = convolutions(network), convolutions(plain)
    assert list(found) == list(untouched)
    for name, conv in found.items():
        assert torch.equal(conv.weight, untouched[name].weight)
        torch.testing.assert_close(filters(untouched[name]), conv.weight.detach().flatten(1))
        effective = filters(conv)
        if name in ("decoder.read", "backbone.net.patch_embed.proj"):  # no norm follows
            torch.testing.assert_close(effective, conv.weight.detach().flatten(1))
        else:
            mean, variance = effective.mean(1), effective.var(1, unbiased=False)
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
            torch.testing.assert_close(variance, torch.ones_like(mean), atol=1e-3, rtol=0)
    changed = len(found) - 1 if method == "mae" else 0
    assert changed == (13 if backbone == "resnet" else 0)
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"), [(3, 2, 1, False), (1, 1, 0, True)]
)
def test_standardized_convolution_is_a_convolution_with_such_filters(kernel, stride, padding, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, kernel, stride, padding, bias=bias).double()
    conv = norms("gn-ws").convolution(plain).double()
    assert torch.equal(conv.weight, plain.weight)
    x, w = torch.randn(2, 3, 7, 7).double(), conv.weight.detach().clone().requires_grad_()
    centred = w - w.mean((1, 2, 3), keepdim=True)
    scaled = centred / (centred.pow(2).mean((1, 2, 3), keepdim=True) + 1e-6).sqrt()
    expected, found = F.conv2d(x, scaled, plain.bias, stride, padding), conv(x)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(found)
    (gradient,) = torch.autograd.grad(found, conv.weight, cotangent)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, w, cotangent)[0])


@pytest.mark.parametrize("name", ["gn", "bn", "none-plain"])
def test_other_norms_leave_convolutions_as_they_are(name):
    conv = nn.Conv2d(3, 4, 3)
    assert norms(name).convolution(conv) is conv
