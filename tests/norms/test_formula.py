"""Each norm against its definition, written out in double precision, and against torch's functions."""

from __future__ import annotations

import functools
import itertools
import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.core.errors import UserError
from benchmark.norms.factory import EPS, SectionNorms
from tests.helpers.small import NORMS, norms, options

SHAPES = {"map": (6, 16, 3, 5), "vector": (6, 16), "tokens": (6, 5, 16)}
PLACES = {
    "map": {"positions": 15},
    "vector": {"positions": 1},
    "tokens": {"positions": 5, "class_token": True},
}
SITES = ("affine", "bare", "activated")


def over_batch(shape):
    return {"map": (0, 2, 3), "vector": (0,), "tokens": (0, 1)}[shape]


def over_channels(shape):
    return (-1,) if shape == "tokens" else (1,)


def per_channel(values, shape):
    return values.view({"map": (1, -1, 1, 1), "vector": (1, -1), "tokens": (1, 1, -1)}[shape])


def standardised(x, dims, eps):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(dims, keepdim=True) + eps).sqrt()


def rooted(x, dims, eps):
    return x / (x.pow(2).mean(dims, keepdim=True) + eps).sqrt()


def bn(x, shape, p):
    """Over the batch and every position or token of it; batch renorm starts as this."""
    return standardised(x, over_batch(shape), 1e-5)


def ghost(x, shape, p):
    return torch.cat([bn(x[:3], shape, p), bn(x[3:], shape, p)])


def strided_ghost(x, shape, p):
    y = torch.empty_like(x)
    for group in range(2):
        members = [i for i in range(6) if i % 2 == group]
        y[members] = bn(x[members], shape, p)
    return y


def over_sample(shape):
    """All of a map, but each token alone."""
    return (1, 2, 3) if shape == "map" else over_channels(shape)


def ln(x, shape, p):
    """Over the channels and positions of a map."""
    return standardised(x, over_sample(shape), 1e-5)


def ln_position(x, shape, p):
    """Over the channels of each position."""
    return standardised(x, over_channels(shape), 1e-5)


def rms(x, shape, p):
    return rooted(x, over_sample(shape), 1e-5)


def rms_position(x, shape, p):
    return rooted(x, over_channels(shape), 1e-5)


def in_groups(x, shape, count):
    """Groups of channels, those of a map with their positions, and the dims of one group."""
    if shape == "map":
        return x.reshape(6, count, 16 // count, 3, 5), (2, 3, 4)
    return x.reshape(*x.shape[:-1], count, 16 // count), (-1,)


def gn(x, shape, p, count=4):
    """Over groups of channels: with the positions of a map, but of each token alone."""
    grouped, dims = in_groups(x, shape, count)
    return standardised(grouped, dims, 1e-5).reshape(x.shape)


def gn_one(x, shape, p):
    return gn(x, shape, p, count=1)


def instance(x, shape, p):
    return standardised(x, (2, 3), 1e-5)


def frn(x, shape, p):
    return rooted(x, (2, 3), 1e-5)


def evonorm(x, shape, p):
    if "v" not in p:
        return x
    grouped, dims = in_groups(x, shape, 4)
    deviation = ((grouped - grouped.mean(dims, keepdim=True)) ** 2).mean(dims, keepdim=True) + 1e-5
    gated = x / (1 + (-per_channel(p["v"], shape) * x).exp())
    return (gated.reshape(grouped.shape) / deviation.sqrt()).reshape(x.shape)


def dyt(x, shape, p):
    growing, falling = (p["alpha"] * x).exp(), (-p["alpha"] * x).exp()
    return (growing - falling) / (growing + falling)


def derf(x, shape, p):
    """By 80 Gauss-Legendre points of erf(z) = 2z/√π ∫₀¹ exp(−z²t²) dt."""
    z = p["alpha"] * x + p["shift"]
    points, weights = map(torch.from_numpy, numpy.polynomial.legendre.leggauss(80))
    inside = (-((z[..., None] * (points + 1) / 2) ** 2)).exp() @ (weights / 2)
    return 2 / math.sqrt(math.pi) * z * inside


def none(x, shape, p):
    return x


FORMULAS = {
    "bn": bn,
    "ghost-bn": ghost,
    "batch-renorm": bn,
    "ln": ln,
    "ln-position": ln_position,
    "gn": gn,
    "gn-ws": gn,
    "in": instance,
    "rmsnorm": rms,
    "rmsnorm-position": rms_position,
    "dyt": dyt,
    "derf": derf,
    "frn": frn,
    "evonorm-s0": evonorm,
    "none-plain": none,
    "none-skipinit": none,
}
VARIANTS = {
    "ghost-bn strided": (
        {"norm": "ghost-bn", "groups": 2, "assignment": "strided"},
        strided_ghost,
    ),
    "gn one group": ({"norm": "gn", "groups": 1}, gn_one),
}
START = {"weight": 1.0, "bias": 0.0, "alpha": 0.5, "shift": 0.0, "tau": 0.0, "v": 1.0}


def parameters_of(norm, shape, site):
    """What can be trained at a site, by the last part of its name."""
    if norm.startswith("none"):
        return set() if shape == "tokens" or site == "bare" else {"bias"}
    affine = (
        set()
        if site == "bare"
        else {"weight"}
        if norm.startswith("rmsnorm")
        else {"weight", "bias"}
    )
    own = {"frn": {"tau"}, "evonorm-s0": {"v"}}.get(norm, set()) if site == "activated" else set()
    pointwise = {"dyt": {"alpha"}, "derf": {"alpha", "shift"}}.get(norm, set())
    return affine | own | pointwise


def at_site(spec, shape, site):
    """The layer of a site and the activation after it."""
    section = SectionNorms("backbone", spec)
    if site == "activated":
        return section.activated(shape, 16, nn.ReLU(), **PLACES[shape])
    return section.layer(shape, 16, affine=site == "affine", **PLACES[shape]), nn.Identity()


def cases():
    """Every norm at every kind of site where it is defined (test_catalogue lists where it is not).

    SepNorm, which has two scales, has a test of its own.
    """
    specs = {n: {"norm": n, **options("norm", n)} for n in NORMS if n != "sepnorm"}
    specs |= {name: spec for name, (spec, _) in VARIANTS.items()}
    for (name, spec), shape, site in itertools.product(specs.items(), SHAPES, SITES):
        try:
            at_site(spec, shape, site)
        except UserError:
            continue
        yield pytest.param(name, spec, shape, site, id=f"{name}-{shape}-{site}")


@pytest.mark.parametrize("scale", [3.0, 0.01], ids=["large", "small"])
@pytest.mark.parametrize(("name", "spec", "shape", "site"), list(cases()))
def test_norm_is_its_formula(name, spec, shape, site, scale):
    torch.manual_seed(0)
    layer, activation = at_site(spec, shape, site)
    trained = {key.split(".")[-1]: parameter for key, parameter in layer.named_parameters()}
    assert set(trained) == parameters_of(spec["norm"], shape, site)
    for key, parameter in trained.items():
        assert bool((parameter == START[key]).all()), key

    x = scale * (0.5 + torch.randn(SHAPES[shape]))
    cotangent = torch.randn(SHAPES[shape]) * min(1.0, scale)
    exact = {key: torch.randn(p.shape, dtype=torch.float64) for key, p in trained.items()}
    for key, parameter in trained.items():
        parameter.data.copy_(exact[key])

    inputs = [x.double().requires_grad_(), *(v.requires_grad_() for v in exact.values())]
    formula = VARIANTS[name][1] if name in VARIANTS else FORMULAS[name]
    expected = formula(inputs[0], shape, exact)
    if "weight" in exact:
        expected = expected * per_channel(exact["weight"], shape)
    if "bias" in exact:
        expected = expected + per_channel(exact["bias"], shape)
    if "tau" in exact:
        tau = per_channel(exact["tau"], shape)
        expected = torch.where(expected > tau, expected, tau)
    elif site == "activated" and "v" not in exact:
        expected = torch.where(expected > 0, expected, 0)
    gradients = torch.autograd.grad(expected, inputs, cotangent.double())

    x.requires_grad_()
    found = activation(layer(x))
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        [g.double() for g in torch.autograd.grad(found, [x, *trained.values()], cotangent)],
        list(gradients),
        atol=1e-5,
        rtol=1e-5,
    )


def channels_last(function):
    """Over the channels, wherever they stand."""

    def over(x, shape):
        axis = -1 if shape == "tokens" else 1
        return function(x.movedim(axis, -1), (16,)).movedim(-1, axis)

    return over


def whole_maps(function, channels):
    """Over all of a map, and over the channels of a vector and of each token."""

    def over(x, shape):
        return function(x) if shape == "map" else channels(x, shape)

    return over


def flat_tokens(function):
    """Tokens as samples of their own."""

    def over(x, shape):
        return function(x.reshape(-1, 16)).view(x.shape) if shape == "tokens" else function(x)

    return over


RMS = functools.partial(F.rms_norm, eps=1e-5)
TORCHS = {
    "bn": flat_tokens(lambda x: F.batch_norm(x, None, None, training=True)),
    "ln": whole_maps(lambda x: F.group_norm(x, 1), channels_last(F.layer_norm)),
    "ln-position": channels_last(F.layer_norm),
    "rmsnorm": whole_maps(lambda x: F.rms_norm(x, x.shape[1:], eps=1e-5), channels_last(RMS)),
    "rmsnorm-position": channels_last(RMS),
    "gn": flat_tokens(lambda x: F.group_norm(x, 4)),
    "in": lambda x, shape: F.instance_norm(x),
}


@pytest.mark.parametrize(
    ("name", "shape"), [(n, s) for n in TORCHS for s in SHAPES if n != "in" or s == "map"]
)
def test_norm_is_torchs(name, shape):
    torch.manual_seed(0)
    x = 2 + 3 * torch.randn(SHAPES[shape])
    layer = norms(name).layer(shape, 16, **PLACES[shape])
    torch.testing.assert_close(layer(x), TORCHS[name](x, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["bn", "batch-renorm"])
def test_norm_of_the_batch_evaluates_with_running_statistics(name, shape):
    torch.manual_seed(0)
    layer = norms(name).layer(shape, 16)
    mean, variance = torch.zeros(16), torch.ones(16)
    for _ in range(3):
        x = 2 + 3 * torch.randn(SHAPES[shape])
        layer(x)
        flat = x.reshape(-1, 16) if shape == "tokens" else x.movedim(1, -1).reshape(-1, 16)
        mean = 0.9 * mean + 0.1 * flat.mean(0)
        variance = 0.9 * variance + 0.1 * flat.var(0, unbiased=True)
    expected = (x - per_channel(mean, shape)) / (per_channel(variance, shape) + 1e-5).sqrt()
    torch.testing.assert_close(layer.eval()(x), expected, atol=1e-5, rtol=1e-5)


def nearly_constant(shape, deviation):
    """Two values about zero for every norm's mean and root mean square, whatever it is over."""
    size = torch.Size(SHAPES[shape])
    signs = sum(torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")) % 2
    return deviation * (1.0 - 2.0 * signs)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        for name, shape in itertools.product(NORMS, SHAPES)
        if not name.startswith("none")
        and name not in ("derf", "dyt")
        and not (name in ("in", "frn", "evonorm-s0") and shape != "map")
        and not (name == "sepnorm" and shape != "tokens")
    ],
)
def test_every_norm_adds_the_same_to_a_variance(name, shape):
    """An input of variance v leaves with v / (v + eps), which says what eps is."""
    section = norms(name)
    layer = section.layer(shape, 16, **PLACES[shape])
    if name == "evonorm-s0":
        layer, _ = section.activated(shape, 16, nn.ReLU(), **PLACES[shape])
        layer.v.data.zero_()  # the gate is then one half everywhere
    x = nearly_constant(shape, 1e-3)
    y = layer(x) * (2 if name == "evonorm-s0" else 1)
    variance = x.var(unbiased=False) if name != "rmsnorm" else x.square().mean()
    found = float(variance / y.detach().square().mean() - variance)
    assert found == pytest.approx(EPS, rel=0.2)


def dtypes_of(layer, x):
    """The type of a layer's output under autocast to bfloat16, for float32 and bfloat16 inputs."""
    with torch.autocast("cpu", torch.bfloat16):
        return [layer(x.to(given)).dtype for given in (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize(("name", "shape"), [(n, s) for n, s in itertools.product(NORMS, SHAPES)])
def test_under_autocast_a_norm_gives_back_the_type_it_gets(name, shape):
    section = norms(name)
    try:
        layer = section.layer(shape, 16, **PLACES[shape])
    except UserError:
        pytest.skip("not defined there, see test_catalogue")
    x = torch.randn(SHAPES[shape], generator=torch.Generator().manual_seed(0))
    assert dtypes_of(layer, x) == [torch.float32, torch.bfloat16]
    activated, _ = section.activated(shape, 16, nn.ReLU(), **PLACES[shape])
    assert dtypes_of(activated, x) == [torch.float32, torch.bfloat16]
