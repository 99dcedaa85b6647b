"""Every parameter is trained, except those that provably cannot be."""

from __future__ import annotations

import functools

import pytest
import torch
from timm.models.resnet import BasicBlock
from timm.models.vision_transformer import Block

from benchmark.components import registry
from tests.helpers.small import BACKBONES, NORMS, TRAINED, batch, build, combinations, legal, norms

# In double precision, rounding is around 1e-17 of the largest gradient.
ZERO = 1e-13
CASES = combinations()
BLIND_TO_SHIFTS = {"barlow", "vicreg"}
"""Methods whose loss is the same if a vector is added to all embeddings."""


def branch_parameters(network, skipinit):
    """What stands before a factor of zero at the end of a residual branch, by full name."""
    names = set()
    for name, module in network.named_modules():
        if name.startswith("teacher."):
            continue
        # In a ResNet a gain of zero would do the same without skipinit; here it is one.
        inner = ()
        if isinstance(module, BasicBlock) and skipinit:
            inner = ("conv1", "bn1", "conv2", "bn2")
        elif isinstance(module, Block) and skipinit:
            inner = ("norm1", "attn", "norm2", "mlp")
        names |= {f"{name}.{key}" for key, _ in module.named_parameters() if key.startswith(inner)}
    return names


def silent_at_first(network, method, backbone, norm):
    """Parameters whose gradient is zero at step 1, but not later."""
    skipinit = registry.facts("norm", norm).get("branch") == "skipinit"
    silent = branch_parameters(network, skipinit)
    if skipinit and backbone == "vit":
        # Others see the class token through attention alone, and that is off.
        silent.add("backbone.net.cls_token")
        if method == "mae":
            # So do hidden places the visible ones: the loss does not depend on the encoder.
            silent |= {name for name, _ in network.named_parameters() if "backbone." in name}
            silent |= {"decoder.embed.weight", "decoder.embed.bias"}
    return silent


@functools.cache
def takes_shifts_away(norm, shape):
    """Whether a layer's output is the same if a vector is added to all samples."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"vector": (4, 8), "tokens": (4, 5, 8)}[shape]
    x, cotangent = torch.randn(2, *sizes, generator=generator).double()
    shift = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    y = norms(norm).layer(shape, 8, class_token=shape == "tokens").double()(x + shift)
    (gradient,) = torch.autograd.grad((y * cotangent).sum(), shift)
    return float(gradient.abs().max()) < ZERO


def without_influence(network, method, backbone, norm):
    """Biases that move all samples alike, where what follows takes that away again."""
    sections = registry.facts("method", method)["sections"]
    heads = "projector" in sections and takes_shifts_away(norm, "vector")
    silent = set()
    if backbone == "vit" and takes_shifts_away(norm, "tokens"):
        silent |= {
            name
            for name, _ in network.named_parameters()
            if name.endswith(("attn.proj.bias", "mlp.fc2.bias")) and not name.startswith("teacher.")
        }
    if backbone == "vit" and heads:
        # Between the final norm and the projector's there are only a mean and a linear layer.
        silent.add("backbone.net.norm.layer.bias")
    if method == "byol" and heads:
        silent.add("projector.3.bias")  # the predictor's norm comes next
    if norm == "sepnorm":
        # BN takes away what all class tokens share: the first one, and a shift before the next BN.
        silent |= {"backbone.net.cls_token", "backbone.net.blocks.0.norm1.class_token.weight"}
        silent.add("backbone.net.norm.class_token.bias")
        # The patch tokens that are read no longer see the class token after the last attention.
        layers = ["backbone.net.blocks.1.norm2", "backbone.net.norm"]
        if method == "mae":
            layers = ["decoder.block.norm2", "decoder.norm"]
        for layer in layers:
            silent |= {f"{layer}.class_token.weight", f"{layer}.class_token.bias"}
    if method in BLIND_TO_SHIFTS and registry.facts("norm", norm).get("activates"):
        # A linear layer comes next: the activation that stood between them is in the norm.
        silent.add("projector.4.layer.bias")
    return silent


@pytest.mark.parametrize(("method", "backbone", "norm"), CASES)
def test_every_parameter_gets_a_gradient(method, backbone, norm):
    network = build(method, backbone, norm).double().train()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    # Few steps and small ones, or a unit is on for a whole batch or for none.
    optimizer = torch.optim.Adam(trained.values(), 0.001)
    at_first = silent_at_first(network, method, backbone, norm)
    silent = []
    for step in range(3 if at_first else 2):  # what a gain of zero hides appears one by one
        given = batch(method, step)
        optimizer.zero_grad()
        network(given._replace(views=[view.double() for view in given.views])).loss.backward()
        assert all(p.grad is not None for p in trained.values())
        sizes = {name: float(p.grad.abs().max()) for name, p in trained.items()}
        silent.append({name for name, g in sizes.items() if g < ZERO * max(sizes.values())})
        assert all(p.grad is None for p in network.parameters() if not p.requires_grad)
        optimizer.step()
        network.after_step(given.progress)
    never = without_influence(network, method, backbone, norm)
    assert silent[0] == at_first | never
    assert silent[-1] == never


def test_what_takes_shifts_away():
    """The list of norms for which biases are excused, from the norms' definitions."""
    found = {n for n in NORMS if legal("simclr", "vit", n) and takes_shifts_away(n, "tokens")}
    assert found == {"bn", "ghost-bn", "batch-renorm"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_skipinit_moves_at_the_first_step(backbone):
    network = build("supervised", backbone, "none-skipinit").train()
    network(batch("supervised")).loss.backward()
    gains = [p for name, p in network.named_parameters() if name.endswith("gain")]
    assert len(gains) == 4
    assert all(float(gain.grad.abs()) > 1e-6 for gain in gains)


# Every method and every norm once in each backbone.
HALVES = [(m, f, "bn") for m in TRAINED for f in BACKBONES]
HALVES += [(m, f, n) for m, f, n in CASES if m == "supervised" and n != "bn"]


@pytest.mark.parametrize(("method", "backbone", "norm"), HALVES)
def test_half_precision_trains_towards_the_same(method, backbone, norm):
    """The loop's `bfloat16`: losses within what its 8 bits leave, and gradients for all."""
    found = []
    for mixed in (False, True):
        network = build(method, backbone, norm).train()
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, 0.001)
        for step in range(2):
            given = batch(method, step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = network(given).loss
            loss.backward()
            assert all(p.grad.isfinite().all() for p in trained)
            optimizer.step()
            network.after_step(given.progress)
        assert all(p.dtype == torch.float32 for p in network.parameters())
        assert all(b.dtype == torch.float32 for b in network.buffers() if b.is_floating_point())
        found.append(loss.item())
    assert found[1] != found[0]
    assert found[1] == pytest.approx(found[0], rel=0.05, abs=0.01)
