"""Each norm against its definition, written out in double precision."""

from __future__ import annotations

import pytest
import torch

from tests.small import norms

SHAPES = {"map": (6, 16, 3, 5), "vector": (6, 16), "tokens": (6, 5, 16)}


def standardised(x, dims, eps):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(dims, keepdim=True) + eps).sqrt()


def bn(x, shape):
    """Over the batch and every position or token of it."""
    return standardised(x, {"map": (0, 2, 3), "vector": (0,), "tokens": (0, 1)}[shape], 1e-5)


def ghost(x, shape):
    return torch.cat([bn(x[:3], shape), bn(x[3:], shape)])


def ln(x, shape):
    """Over the channels of each position."""
    return standardised(x, (-1 if shape == "tokens" else 1,), 1e-6)


def gn(x, shape):
    """Over four groups of four channels: with the positions of a map, but of each token alone."""
    if shape == "map":
        return standardised(x.reshape(6, 4, 4, 3, 5), (2, 3, 4), 1e-5).reshape(x.shape)
    return standardised(x.reshape(*x.shape[:-1], 4, 4), (-1,), 1e-5).reshape(x.shape)


def none(x, shape):
    return x


FORMULAS = {
    "bn": bn,
    "ghost-bn": ghost,
    "ln": ln,
    "gn": gn,
    "none-plain": none,
    "none-skipinit": none,
}


@pytest.mark.parametrize("scale", [3.0, 0.01], ids=["large", "small"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMULAS)
def test_norm_is_its_formula(name, shape, scale):
    torch.manual_seed(0)
    layer = norms(name).layer(shape, 16)
    affine = {key.split(".")[-1]: parameter for key, parameter in layer.named_parameters()}
    if name.startswith("none"):
        assert set(affine) == (set() if shape == "tokens" else {"bias"})
    else:
        assert set(affine) == {"weight", "bias"}
        assert bool((affine["weight"] == 1).all())
    assert "bias" not in affine or not affine["bias"].any()

    x = scale * (0.5 + torch.randn(SHAPES[shape]))
    cotangent = torch.randn(SHAPES[shape]) * min(1.0, scale)
    exact = {key: torch.randn(16, dtype=torch.float64) for key in affine}
    for key, parameter in affine.items():
        parameter.data.copy_(exact[key])

    channels = (1, 1, -1) if shape == "tokens" else (1, -1, *[1] * (x.ndim - 2))
    inputs = [x.double().requires_grad_(), *(v.requires_grad_() for v in exact.values())]
    expected = FORMULAS[name](inputs[0], shape)
    if "weight" in exact:
        expected = expected * exact["weight"].view(channels)
    if "bias" in exact:
        expected = expected + exact["bias"].view(channels)
    gradients = torch.autograd.grad(expected, inputs, cotangent.double())

    x.requires_grad_()
    found = layer(x)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        [g.double() for g in torch.autograd.grad(found, [x, *affine.values()], cotangent)],
        list(gradients),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_bn_evaluates_with_running_statistics(shape):
    torch.manual_seed(0)
    layer = norms("bn").layer(shape, 16)
    mean, variance = torch.zeros(16), torch.ones(16)
    for _ in range(2):
        x = 2 + 3 * torch.randn(SHAPES[shape])
        layer(x)
        flat = x.reshape(-1, 16) if shape == "tokens" else x.movedim(1, -1).reshape(-1, 16)
        mean = 0.9 * mean + 0.1 * flat.mean(0)
        variance = 0.9 * variance + 0.1 * flat.var(0, unbiased=True)
    channels = (1, 1, -1) if shape == "tokens" else (1, -1, *[1] * (x.ndim - 2))
    expected = (x - mean.view(channels)) / (variance.view(channels) + 1e-5).sqrt()
    torch.testing.assert_close(layer.eval()(x), expected, atol=1e-5, rtol=1e-5)
