"""Initial weights depend on the seed and on nothing that stands around them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from benchmark.components import plugins, registry
from benchmark.training.network import parameter_groups
from tests.helpers.small import BACKBONES, NORMS, TRAINED, build, change, legal

TEACHERS = [m for m in TRAINED if registry.facts("method", m)["teacher"]]
TOKENS = ("cls_token", "pos_embed", "mask_token", "mask_patch")


def unnormalized(network):
    """The parameters of convolutions and linear layers, and the tokens, by name."""
    found = {}
    for name, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Conv2d | nn.Linear) or key in TOKENS:
                found[f"{name}.{key}"] = parameter.detach()
    return found


def assert_same(first, second):
    assert list(first) == list(second)
    for name, parameter in first.items():
        assert torch.equal(parameter, second[name]), name


MADE = [pair for pair in itertools.product(TRAINED, BACKBONES) if legal(*pair, "bn")]
"""Methods and backbones: not every backbone can be masked."""


@pytest.fixture(scope="module", params=MADE, ids="-".join)
def schemes(request):
    """A method in a backbone with every norm that is legal there."""
    method, backbone = request.param
    return [build(*request.param, norm) for norm in NORMS if legal(method, backbone, norm)]


def test_weights_are_the_same_under_every_scheme(schemes):
    first, *others = map(unnormalized, schemes)
    assert len(others) >= 8
    for other in others:
        assert_same(first, other)


def test_weights_are_the_same_wherever_the_norms_of_a_vit_stand(monkeypatch):
    first = unnormalized(build("supervised", "vit", "ln"))
    for placement, final_norm, more in [("res-post", "after-pool", True), ("post", "none", False)]:
        changed = {
            "placement": placement, "final_norm": final_norm, "mlp_norm": more, "qk_norm": more,
        }  # fmt: skip
        change(monkeypatch, "backbone", "vit", **changed)
        assert_same(first, unnormalized(build("supervised", "vit", "ln")))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbone_starts_the_same_under_every_method(backbone):
    with_backbone = [
        m for m, facts in registry.catalogue("method").items()
        if facts["sections"] and legal(m, backbone, "bn")
    ]  # fmt: skip
    first, *others = (unnormalized(build(m, backbone, "bn").backbone) for m in with_backbone)
    assert len(others) >= 5
    masked = [other for other in (first, *others) if other.pop(".mask_patch", None) is not None]
    assert len(masked) == (1 if backbone == "resnet" else 0)  # learnt for masked images alone
    for other in others:
        assert_same(first, other)


@pytest.mark.parametrize(("method", "backbone"), MADE)
def test_weights_are_those_of_the_seed(method, backbone):
    torch.manual_seed(1)
    first = unnormalized(build(method, backbone, "bn", seed=3))
    torch.manual_seed(2)
    assert_same(first, unnormalized(build(method, backbone, "bn", seed=3)))
    other = unnormalized(build(method, backbone, "bn", seed=4))
    for name, parameter in first.items():
        if name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert not torch.equal(parameter, other[name]), name


def test_layers_of_one_shape_start_at_different_weights():
    blocks = build("supervised", "vit", "ln").backbone.net.blocks
    assert not torch.equal(blocks[0].mlp.fc1.weight, blocks[1].mlp.fc1.weight)


def test_weights_are_drawn_as_declared():
    network = build("mae", "resnet", "ln")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 500:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            ratio = float(module.weight.detach().std()) / math.sqrt(2 / fan_out)
            assert 0.9 < ratio < 1.1, name
    linears = 0
    for name, parameter in unnormalized(build("mae", "vit", "ln")).items():
        if name.endswith(TOKENS):
            assert parameter.numel() < 100 or 0.018 < float(parameter.std()) < 0.022, name
        elif name.endswith("weight") and parameter.numel() > 100:
            # timm's one matrix for queries, keys and values is three layers.
            for rows in parameter.flatten(1).chunk(3 if "qkv" in name else 1):
                linears += 1
                bound = math.sqrt(6 / sum(rows.shape))
                assert 0.95 * bound < float(rows.abs().max()) <= bound, name
                assert float(rows.std()) == pytest.approx(bound / math.sqrt(3), rel=0.1), name
    assert linears >= 16


def test_queries_keys_and_values_are_three_square_layers():
    """Each within Xavier's bound of a (D, D) layer, which one of (3D, D) would halve in square."""
    weights = [
        parameter
        for name, parameter in build("mae", "vit", "ln").named_parameters()
        if name.endswith("qkv.weight")
    ]
    assert len(weights) == 3  # two blocks and the decoder's
    for weight in weights:
        width = weight.shape[1]
        parts = weight.detach().split(width)
        assert [part.shape for part in parts] == [(width, width)] * 3
        bound = math.sqrt(6 / (width + width))
        for part in parts:
            # Of D² draws from a uniform distribution hardly any maximum is a tenth below its bound.
            assert 0.9 * bound < float(part.abs().max()) <= bound
            assert float(part.std()) == pytest.approx(bound / math.sqrt(3), rel=0.15)
        assert not any(torch.equal(parts[0], other) for other in parts[1:])


def test_a_mask_patch_starts_like_standardised_pixels():
    drawn = torch.cat(
        [
            build("mae", "resnet", "ln", seed=seed).backbone.mask_patch.flatten()
            for seed in range(20)
        ]
    ).detach()
    assert abs(float(drawn.mean())) < 0.15  # 960 draws
    assert float(drawn.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_norms_keep_what_their_constructors_gave_them(backbone):
    network = build("simclr", backbone, "ln")
    others = set(dict(network.named_parameters())) - set(unnormalized(network))
    zeros = [name for name in others if not dict(network.named_parameters())[name].any()]
    for name in set(others) - set(zeros):
        assert bool((dict(network.named_parameters())[name] == 1).all()), name
    assert all(name.endswith("bias") for name in zeros)


def test_branches_of_gain_zero_stay_so(monkeypatch):
    change(monkeypatch, "backbone", "resnet", branch_gain=0)
    network = build("simclr", "resnet", "ln")
    zeros = [name for name, p in network.named_parameters() if not p.any()]
    branches = [name for name in zeros if not name.endswith("bias")]
    assert len(branches) == 4  # one block in each stage
    assert all(name.endswith("bn2.weight") for name in branches)


@pytest.mark.parametrize("statistics", ["batch", "running", "momentum", "eman"])
@pytest.mark.parametrize("method", TEACHERS)
def test_teacher_starts_as_its_student(method, statistics):
    policy = {"teacher": {"statistics": statistics, "shuffle": False}}
    network = build(method, "vit", "bn", seed=3, training=policy)
    student, teacher = network.student().state_dict(), network.teacher.network.state_dict()
    assert_same(student, teacher)
    shared = {p.data_ptr() for p in network.student().parameters()} & {
        p.data_ptr() for p in network.teacher.parameters()
    }
    assert not shared


def decayed_names(network, on="weights"):
    decayed, rest = parameter_groups(network, 0.1, on)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in network.named_parameters() if p.requires_grad}
    both = [id(p) for p in decayed["params"] + rest["params"]]
    assert len(both) == len(set(both))
    assert set(both) == set(names)
    return {names[id(p)] for p in decayed["params"]}


def test_what_decays_does_not_change_with_the_scheme(schemes):
    for network in schemes:
        expected = {
            name
            for name in unnormalized(network)
            if not name.endswith("bias") and not name.startswith("teacher.")
        }
        assert decayed_names(network) == expected


@pytest.mark.parametrize("method", TEACHERS)
def test_a_teacher_is_not_in_the_optimizer_whatever_its_policy(method):
    for statistics in ("batch", "running", "momentum", "eman"):
        policy = {"teacher": {"statistics": statistics, "shuffle": False}}
        names = decayed_names(build(method, "resnet", "bn", training=policy), on="all")
        assert not any(name.startswith("teacher.") for name in names)


def test_everything_decays_if_so_declared():
    network = build("moco", "vit", "bn")
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert decayed_names(network, on="all") == trained
    assert not any(name.startswith("teacher.") for name in trained)


LOADED = """
import torch

from benchmark.backbones import resnet

COMPONENT = {
    "kind": "backbone", "name": "loaded", "version": 1, "normalized": True, "options": {},
    STATED
}


def build(shape, norms):
    network = resnet.build(
        shape, norms, channels=[8, 8, 16, 16], layers=[1, 1, 1, 1], stem_kernel=3, stem_stride=1,
        stem_pool=False, branch_gain=1,
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.25)
    return network
"""


@pytest.mark.parametrize("method", ["supervised", "byol", "mae"])
@pytest.mark.parametrize("stated", [True, False])
def test_a_backbone_keeps_the_weights_it_loaded_only_if_it_says_so(
    tmp_path, monkeypatch, method, stated
):
    file = tmp_path / "loaded.py"
    file.write_text(LOADED.replace("STATED", '"initialized": True,' if stated else ""))
    monkeypatch.setenv(plugins.VARIABLE, str(file))
    network = build(method, "loaded", "bn")
    own = {id(p) for name, p in network.backbone.named_parameters() if not name.startswith("mask")}
    weights = [p for p in network.backbone.parameters() if id(p) in own and p.ndim > 1]
    assert weights
    assert all(bool((p == 0.25).all()) == stated for p in weights)
    # What the method adds is drawn in any case, and a teacher starts as its student.
    drawn = [p for p in network.parameters() if p.ndim > 1 and id(p) not in own]
    loaded = [p for p in drawn if bool((p == 0.25).all())]
    teacher = network.teacher.network if method == "byol" else None
    expected = [p for p in teacher[0].parameters() if p.ndim > 1] if teacher and stated else []
    assert len(drawn) > len(loaded) == len(expected)


@pytest.mark.parametrize("on", ["weights", "all"])
@pytest.mark.parametrize("method", ["simsiam", "moco"])
def test_each_trained_parameter_is_in_one_group_of_its_kind(method, on):
    network = build(method, "resnet", "bn")
    names = {id(p): name for name, p in network.named_parameters() if p.requires_grad}
    groups = parameter_groups(network, 0.1, on, ("predictor",), 0.5)
    found = [names.pop(id(p)) for group in groups for p in group["params"]]
    assert found
    assert not names
    for group in groups:
        for parameter in group["params"]:
            vector = parameter.ndim < 2
            assert group["decays"] == (on == "all" or not vector)
            assert group["weight_decay"] == (0.1 if group["decays"] else 0.0)
            assert group["rate_factor"] == (0.5 if vector else 1.0)
    constant = {id(p) for group in groups if group["constant"] for p in group["params"]}
    predictor = network.predictor.parameters() if method == "simsiam" else ()
    assert constant == {id(p) for p in predictor}
