"""Every parameter is trained, except those that provably cannot be."""

from __future__ import annotations

import pytest
import torch
from timm.models.resnet import BasicBlock
from timm.models.vision_transformer import Block

from benchmark import registry
from tests.small import FAMILIES, NORMS, TRAINED, batch, build, norms

STEPS = 3
# In double precision, rounding is around 1e-17 of the largest gradient.
ZERO = 1e-13


def branch_parameters(network, skipinit):
    """What stands before a factor of zero at the end of a residual branch, by full name."""
    names = set()
    for name, module in network.named_modules():
        if name.startswith("teacher."):
            continue
        if isinstance(module, BasicBlock):
            inner = ["conv1", "bn1", "conv2"] + (["bn2"] if skipinit else [])
        elif isinstance(module, Block) and skipinit:
            inner = ["norm1", "attn", "norm2", "mlp"]
        else:
            continue
        names |= {
            f"{name}.{key}" for key, _ in module.named_parameters() if key.split(".")[0] in inner
        }
    return names


def silent_at_first(network, method, family, norm):
    """Parameters whose gradient is zero at step 1, but not later."""
    facts = registry.facts("norm", norm)
    skipinit = facts["branch"] == "skipinit"
    if not skipinit and (family == "vit" or not facts["normalizes"]):
        return set()  # no branch starts at zero
    silent = branch_parameters(network, skipinit)
    if skipinit and family == "vit":
        # Others see the class token through attention alone, and that is off.
        silent.add("backbone.net.cls_token")
        if method == "mae":
            # So do hidden places the visible ones: the loss does not depend on the encoder.
            silent |= {name for name, _ in network.named_parameters() if "backbone." in name}
            silent |= {"decoder.embed.weight", "decoder.embed.bias"}
    return silent


def without_influence(network, method, family, norm):
    """Biases that move all tokens alike, where each norm that follows takes that away again."""
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    layer = norms(norm).layer("tokens", 8)
    if family != "vit" or not torch.allclose(layer(x + torch.arange(8)), layer(x), atol=1e-4):
        return set()
    silent = {
        name
        for name, _ in network.named_parameters()
        if name.endswith(("attn.proj.bias", "mlp.fc2.bias")) and not name.startswith("teacher.")
    }
    if "projector" in registry.facts("method", method)["sections"]:
        # Between the final norm and the projector's there are only a mean and a linear layer.
        silent.add("backbone.net.norm.layer.bias")
    return silent


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", TRAINED)
def test_every_parameter_gets_a_gradient(method, family, norm):
    network = build(method, family, norm).double().train()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trained.values(), 0.01)
    silent = []
    for step in range(STEPS):
        given = batch(method, step)
        optimizer.zero_grad()
        network(given._replace(views=[view.double() for view in given.views])).loss.backward()
        assert all(p.grad is not None for p in trained.values())
        sizes = {name: float(p.grad.abs().max()) for name, p in trained.items()}
        silent.append({name for name, g in sizes.items() if g < ZERO * max(sizes.values())})
        assert all(p.grad is None for p in network.parameters() if not p.requires_grad)
        optimizer.step()
        network.after_step()
    never = without_influence(network, method, family, norm)
    assert silent[0] == silent_at_first(network, method, family, norm) | never
    assert silent[-1] == never


@pytest.mark.parametrize("family", FAMILIES)
def test_skipinit_moves_at_the_first_step(family):
    network = build("supervised", family, "none-skipinit").train()
    network(batch("supervised")).loss.backward()
    gains = [p for name, p in network.named_parameters() if name.endswith("gain")]
    assert len(gains) == 4
    assert all(float(gain.grad.abs()) > 1e-6 for gain in gains)
