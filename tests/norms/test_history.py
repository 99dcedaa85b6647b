"""BN with statistics from its history, against BN and plain arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.norms.history import POLICIES, HistoryBatchNorm, give_history
from tests.helpers.small import backbones, encoder, images, stir

OF_BN = ("bn", "sepnorm")
"""Norms whose statistics of the batch are those of torch's BN."""


def historic(policy, kind=nn.BatchNorm2d):
    """A BN that has seen a batch, and its historic form."""
    plain = kind(4)
    stir(plain)
    plain(torch.randn(6, 4, 3, 3) + 2 if kind is nn.BatchNorm2d else torch.randn(6, 4) + 2)
    network = nn.Sequential(copy.deepcopy(plain))
    (layer,) = give_history(network, policy)
    assert network[0] is layer
    return plain, layer


def stored(layer):
    return layer.running_mean.clone(), layer.running_var.clone()


def test_running_statistics_normalize_and_the_batch_joins_them_afterwards():
    torch.manual_seed(0)
    plain, layer = historic("running")
    for step in range(3):
        x = torch.randn(6, 4, 3, 3) * (1 + step) + step
        expected = F.batch_norm(x, *stored(layer), layer.weight, layer.bias, eps=1e-5)
        torch.testing.assert_close(layer(x), expected)
        plain(x)
        torch.testing.assert_close(stored(layer), stored(plain))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_momentum_mixes_history_and_batch(kind):
    torch.manual_seed(0)
    _, layer = historic("momentum", kind)
    for step, alpha in enumerate([0.0, 0.3, 0.9, 1.0]):
        layer.history = alpha
        shape = (6, 4, 3, 3) if kind is nn.BatchNorm2d else (6, 4)
        x = torch.randn(shape) * (1 + step) + step
        before, dims = stored(layer), (0, *range(2, x.ndim))
        mean = alpha * before[0] + (1 - alpha) * x.mean(dims)
        variance = alpha * before[1] + (1 - alpha) * x.var(dims, unbiased=False)
        found = layer(x)
        expected = F.batch_norm(x, mean, variance, layer.weight, layer.bias, eps=1e-5)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(stored(layer), (mean, variance))
        if alpha == 0:
            batch = F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)
            torch.testing.assert_close(found, batch)


@pytest.mark.parametrize("policy", POLICIES)
def test_it_is_a_bn_that_takes_no_gradient(policy):
    torch.manual_seed(0)
    plain, layer = historic(policy)
    assert list(layer.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())
    assert not any(p.requires_grad for p in layer.parameters())
    x = torch.randn(6, 4, 3, 3, requires_grad=True)
    assert not layer(x).requires_grad
    layer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
    torch.testing.assert_close(stored(layer), stored(plain))


@pytest.mark.parametrize("policy", POLICIES)
def test_its_statistics_can_be_reestimated_as_bns(policy):
    torch.manual_seed(0)
    plain, layer = historic(policy)
    layer.history = 1.0
    for bn in (plain, layer):
        bn.reset_running_stats()
        bn.momentum = None
    for step in range(3):
        x = torch.randn(6, 4, 3, 3) + step
        torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(stored(layer), stored(plain))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("backbone", "norm"), backbones())
def test_every_bn_of_a_network_is_replaced_and_other_norms_of_the_batch_are_refused(
    backbone, norm, policy
):
    network = encoder(backbone, norm)
    if norm not in OF_BN and registry.facts("norm", norm)["batch_dependent"]:
        with pytest.raises(UserError, match=f"statistics '{policy}' need bn"):
            give_history(network, policy)
        return
    keys = list(network.state_dict())
    count = sum(isinstance(m, _BatchNorm) for m in network.modules())
    assert bool(count) == (norm in OF_BN)
    made = give_history(network, policy)
    assert len(made) == len(set(map(id, made))) == count
    assert {id(m) for m in network.modules() if isinstance(m, _BatchNorm)} == set(map(id, made))
    assert all(isinstance(m, HistoryBatchNorm) for m in made)
    assert list(network.state_dict()) == keys
    assert network.train()(images()).isfinite().all()
