"""What every norm claims of itself, whichever norms there are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark import registry
from benchmark.norms.factory import SkipInit
from tests.small import BATCH, FAMILIES, NORMS, backbone, images, norms, stir

SHAPES = {"map": (BATCH, 8, 3, 3), "vector": (BATCH, 8), "tokens": (BATCH, 5, 8)}


def assert_moves(before, after, moves):
    moved = float((before - after).detach().abs().max())
    assert moved > 1e-3 if moves else moved < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NORMS)
def test_layer_looks_at_the_batch_only_if_it_says_so(name, shape):
    torch.manual_seed(0)
    layer = norms(name).layer(shape, 8)
    x, other = torch.randn(SHAPES[shape]), 1 + 2 * torch.randn(SHAPES[shape])
    other[0] = x[0]
    facts = registry.facts("norm", name)
    assert_moves(layer(x)[0], layer(other)[0], facts["batch_dependent"])
    # What normalizes does not notice the scale of its input.
    layer, x = layer.double(), x.double()
    assert_moves(layer(1e4 * x), layer(1e5 * x), not facts["normalizes"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NORMS)
def test_embedding_moves_with_its_batch_mates_only_if_the_norm_says_so(name, family):
    network = backbone(family, name).train()
    stir(network)
    x, other = images(seed=1), 1 + 2 * images(seed=2)
    other[0] = x[0]
    with torch.no_grad():
        before, after = network(x)[0], network(other)[0]
    assert_moves(before, after, registry.facts("norm", name)["batch_dependent"])


@pytest.mark.parametrize("name", NORMS)
def test_branch_is_what_the_norm_declares(name):
    branch = norms(name).branch()
    assert isinstance(branch, {None: type(None), "skipinit": SkipInit}[norms(name).facts["branch"]])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NORMS)
def test_no_layer_is_used_at_two_sites(name, family):
    owners = [
        module
        for _, module in backbone(family, name).named_modules(remove_duplicate=False)
        if list(module.parameters(recurse=False)) or isinstance(module, nn.BatchNorm2d)
    ]
    assert len(owners) == len(set(map(id, owners)))
    parameters = [p for module in owners for p in module.parameters(recurse=False)]
    assert len(parameters) == len({p.data_ptr() for p in parameters})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NORMS)
def test_building_leaves_running_statistics_as_they_are(name, family):
    network = backbone(family, name)
    for key, buffer in network.named_buffers():
        assert bool((buffer == ("running_var" in key)).all()), key
    assert network.eval()(images(3)).shape == (3, network.width)


@pytest.mark.parametrize("name", NORMS)
def test_memory_format_does_not_show(name):
    torch.manual_seed(0)
    layer = norms(name).layer("map", 8)
    x, cotangent = torch.randn(2, BATCH, 8, 3, 5).unbind()
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=memory_format).requires_grad_()
        y = layer(given)
        found.append([y, *torch.autograd.grad(y, [given, *layer.parameters()], cotangent)])
    torch.testing.assert_close(*found)
