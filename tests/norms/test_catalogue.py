"""What every norm claims of itself, whichever norms there are, plug-ins included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms, SkipInit
from benchmark.planning.sizes import check
from tests.helpers.small import (
    BACKBONES,
    BARE_HEADS,
    BATCH,
    NORMS,
    TRAINED,
    backbones,
    build,
    configuration,
    defined,
    encoder,
    images,
    legal,
    norms,
    section_shape,
    stir,
)

SHAPES = {"map": (BATCH, 8, 3, 3), "vector": (BATCH, 8), "tokens": (BATCH, 5, 8)}
PLACES = {
    "map": {"positions": 9},
    "vector": {"positions": 1},
    "tokens": {"positions": 5, "class_token": True},
}
UNDEFINED = {
    ("in", "vector"): "over the positions of a map",
    ("in", "tokens"): "over the positions of a map",
    ("frn", "vector"): "over the positions of a map",
    ("frn", "tokens"): "over the positions of a map",
    ("evonorm-s0", "tokens"): "replaces a norm and its activation, and no norm of tokens has one",
    ("sepnorm", "map"): "for tokens that begin with a class token",
    ("sepnorm", "vector"): "for tokens that begin with a class token",
}
"""Norms of the benchmark that are not defined at sites of a shape, and why; all its others are."""
NOTICE_SCALE = {"derf", "dyt", "none-plain", "none-skipinit"}
"""What stands for a norm without normalizing: the scale of its input shows in its output."""
NO_BARE_FORM = {"frn", "evonorm-s0"}
"""Norms of the benchmark that cannot be without scale and shift."""
OWN = sorted(set(registry.own("norm")) & set(NORMS))
DEFINED = [(n, s) for n in NORMS for s in SHAPES if defined(n, s, PLACES[s]["positions"])]


def trained(layer):
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", NORMS)
def test_norm_is_defined_somewhere(name):
    assert any((name, shape) in DEFINED for shape in SHAPES), (
        "build raises ValueError at every site"
    )


@pytest.mark.parametrize(("name", "shape"), DEFINED)
def test_layer_keeps_the_shape_of_its_input(name, shape):
    section, x = norms(name), torch.randn(SHAPES[shape])
    wanted = f"expected the input's shape {tuple(x.shape)}"
    layer = section.layer(shape, 8, **PLACES[shape])
    assert layer(x).shape == x.shape, wanted
    layer, activation = section.activated(shape, 8, nn.ReLU(), **PLACES[shape])
    assert activation(layer(x)).shape == x.shape, f"{wanted} before an activation too"
    if defined(name, shape, PLACES[shape]["positions"], affine=False):
        bare = section.layer(shape, 8, affine=False, **PLACES[shape])
        assert bare(x).shape == x.shape, f"{wanted} with site.affine False too"
        vectors = [tuple(p.shape) for p in trained(bare) if p.ndim]
        assert not vectors, f"with site.affine False it learns parameters of the shapes {vectors}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OWN)
def test_norm_of_the_benchmark_is_defined_unless_listed(name, shape):
    section = norms(name, "projector")
    if reason := UNDEFINED.get((name, shape)):
        message = rf"norm '{name}' is not defined in the projector \({shape} of 8 channels\): .*"
        with pytest.raises(UserError, match=message + reason):
            section.layer(shape, 8, **PLACES[shape])
        with pytest.raises(UserError, match=message + reason):
            section.activated(shape, 8, nn.ReLU(), **PLACES[shape])
        return
    assert (name, shape) in DEFINED
    if name in NO_BARE_FORM:
        with pytest.raises(UserError, match="always has a scale and a shift"):
            section.layer(shape, 8, affine=False, **PLACES[shape])
    else:
        assert defined(name, shape, PLACES[shape]["positions"], affine=False)


@pytest.mark.parametrize(
    ("name", "shape", "width", "positions", "message"),
    [
        ("in", "map", 8, 1, "on a 1×1 map its output is only the bias"),
        ("frn", "map", 8, 1, "on a 1×1 map its output is little more than the sign"),
        ("gn", "map", 10, 9, "groups 4 do not divide 10 channels"),
        ("gn-ws", "vector", 10, 1, "groups 4 do not divide 10 channels"),
        ("evonorm-s0", "map", 10, 9, "groups 4 do not divide 10 channels"),
        ("gn", "vector", 4, 1, "with 4 groups of one channel its output is only the bias"),
        ("gn-ws", "tokens", 4, 5, "with 4 groups of one channel its output is only the bias"),
        ("gn", "map", 4, 1, "with 4 groups of one channel its output is only the bias"),
        ("evonorm-s0", "vector", 4, 1, "4 groups of one value have no variance"),
        ("evonorm-s0", "map", 4, 1, "4 groups of one value have no variance"),
    ],
)
def test_site_that_a_norm_cannot_normalize_is_refused(name, shape, width, positions, message):
    with pytest.raises(UserError, match=rf"decoder \({shape} of {width} channels\): {message}"):
        norms(name, "decoder").layer(shape, width, positions)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", OWN)
def test_norm_is_defined_in_a_network_if_it_is_at_its_sites(name, backbone):
    """The table above decides for networks too, by the shape of each section's sites.

    tests/training/test_network.py builds every network that is legal.
    """
    for method in TRAINED:
        sections = registry.facts("method", method)["sections"]
        undefined = any((name, section_shape(s, backbone)) in UNDEFINED for s in sections)
        expected = not undefined and not (method in BARE_HEADS and name in NO_BARE_FORM)
        assert legal(method, backbone, name) == expected, method
        if not expected:
            with pytest.raises(UserError, match=f"norm '{name}' is not defined"):
                build(method, backbone, name)


@pytest.mark.parametrize("name", OWN)
def test_batch_of_any_size_will_do_but_for_groups_of_it(name):
    norms(name).check_batch(7)
    check(configuration("byol", "resnet", name), 64)
    odd = configuration("byol", "resnet", name, training={"batch_size": 7})
    if name == "ghost-bn":
        message = "norm ghost-bn in the backbone: groups is 2, .* divides the batch size 7"
        with pytest.raises(UserError, match=message):
            check(odd, 64)
    else:
        check(odd, 64)


@pytest.mark.parametrize(("name", "shape"), DEFINED)
def test_norm_brings_its_activation_only_if_it_says_so(name, shape):
    given, section = nn.ReLU(), norms(name)
    layer, activation = section.activated(shape, 8, given, **PLACES[shape])
    x = torch.randn(SHAPES[shape], generator=torch.Generator().manual_seed(0))
    brings = not torch.equal(layer(x), section.layer(shape, 8, **PLACES[shape])(x))
    states = bool(registry.facts("norm", name).get("activates"))
    assert brings == states, (
        f"activates is {states}, and site.activated changes its output: {brings}"
    )
    assert isinstance(activation, nn.Identity) if brings else activation is given


def assert_moves(before, after, moves, what="its output moves with the batch"):
    moved = float((before - after).detach().abs().max())
    assert moved > 1e-3 if moves else moved < 1e-6, f"{what} by {moved}, expected: {moves}"


@pytest.mark.parametrize(("name", "shape"), DEFINED)
def test_layer_looks_at_the_batch_only_if_it_says_so(name, shape):
    torch.manual_seed(0)
    at_start, _ = norms(name).activated(shape, 8, nn.Identity(), **PLACES[shape])
    x, other = torch.randn(SHAPES[shape]), 1 + 2 * torch.randn(SHAPES[shape])
    other[0] = x[0]
    found = [copy.deepcopy(at_start)(given)[0] for given in (x, other)]
    assert_moves(*found, registry.facts("norm", name)["batch_dependent"])
    # What normalizes does not notice the scale of its input. Next to eps the input is large; one
    # value stays small, because what saturates would not notice either.
    if name not in OWN:
        return  # a plug-in need not normalize
    at_start, x = at_start.double(), x.double()
    x.view(-1)[0] = 2**-20
    found = [copy.deepcopy(at_start)(scale * x) for scale in (2**20, 2**24)]
    assert_moves(*found, name in NOTICE_SCALE, "its output moves with the scale")


@pytest.mark.parametrize(("name", "shape"), DEFINED)
def test_in_evaluation_mode_no_layer_looks_at_the_batch(name, shape):
    torch.manual_seed(0)
    layer, _ = norms(name).activated(shape, 8, nn.Identity(), **PLACES[shape])
    x, other = torch.randn(SHAPES[shape]), 1 + 2 * torch.randn(SHAPES[shape])
    other[0] = x[0]
    trained = layer(x)
    layer.eval()
    assert_moves(layer(x)[0], layer(other)[0], False)
    assert_moves(layer(x)[:3], layer(x[:3]), False)
    assert_moves(layer(x), trained, registry.facts("norm", name)["batch_dependent"])


@pytest.mark.parametrize(("backbone", "name"), backbones())
def test_embedding_moves_with_its_batch_mates_only_if_the_norm_says_so(backbone, name):
    network = encoder(backbone, name).train()
    stir(network)
    x, other = images(seed=1), 1 + 2 * images(seed=2)
    other[0] = x[0]
    with torch.no_grad():
        before, after = (copy.deepcopy(network)(given)[0] for given in (x, other))
    assert_moves(before, after, registry.facts("norm", name)["batch_dependent"])


@pytest.mark.parametrize("name", NORMS)
def test_branch_is_what_the_norm_declares(name):
    declared = {None: type(None), "skipinit": SkipInit}[norms(name).facts.get("branch")]
    assert isinstance(norms(name).branch(), declared)


@pytest.mark.parametrize(("backbone", "name"), backbones())
def test_no_layer_is_used_at_two_sites(backbone, name):
    owners = [
        module
        for _, module in encoder(backbone, name).named_modules(remove_duplicate=False)
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    ]
    assert len(owners) == len(set(map(id, owners)))
    for kind in ("parameters", "buffers"):
        tensors = [t for module in owners for t in getattr(module, kind)(recurse=False)]
        assert len(tensors) == len({t.data_ptr() for t in tensors})


@pytest.mark.parametrize(("backbone", "name"), backbones())
def test_building_leaves_running_statistics_as_they_are(backbone, name, monkeypatch):
    made, build = [], SectionNorms.build

    def remembered(self, site):
        layer = build(self, site)
        made.append((layer, copy.deepcopy(dict(layer.named_buffers()))))
        return layer

    monkeypatch.setattr(SectionNorms, "build", remembered)
    network = encoder(backbone, name)
    assert made
    for layer, before in made:
        for key, buffer in layer.named_buffers():
            changed = f"building the network changed the buffer {key} of {type(layer).__name__}"
            assert torch.equal(buffer, before[key]), changed
    assert network.eval()(images(3)).shape == (3, network.width)


@pytest.mark.parametrize("name", [name for name, shape in DEFINED if shape == "map"])
def test_memory_format_does_not_show(name):
    torch.manual_seed(0)
    at_start, _ = norms(name).activated("map", 8, nn.Identity(), 15)
    x, cotangent = torch.randn(2, BATCH, 8, 3, 5).unbind()
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer = copy.deepcopy(at_start)
        given = x.contiguous(memory_format=memory_format).requires_grad_()
        y = layer(given)
        found.append([y, *torch.autograd.grad(y, [given, *trained(layer)], cotangent)])
    torch.testing.assert_close(*found)
