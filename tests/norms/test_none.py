"""Residual branches at the start, with and without a norm at their end."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.models.resnet import BasicBlock
from timm.models.vision_transformer import Block, ResPostBlock

from benchmark.backbones import resnet, vit
from benchmark.backbones.base import ImageShape
from benchmark.norms.factory import SkipInit
from benchmark.training.network import initialise
from tests.helpers.small import NORMS, backbones, build, norms, options

RESNET = [norm for backbone, norm in backbones() if backbone == "resnet"]
NONE = [("none-skipinit", True), ("none-plain", False)]


def resnet_blocks(name, gain):
    given = options("backbone", "resnet") | {"branch_gain": gain}
    network = resnet.build(ImageShape(3, 16, 16), norms(name), **given)
    initialise(network, 0)
    blocks = [m for m in network.modules() if isinstance(m, BasicBlock)]
    assert len(blocks) == 4
    assert any(block.downsample is None for block in blocks)
    return blocks


@pytest.mark.parametrize("gain", [0, 1])
@pytest.mark.parametrize("name", RESNET)
def test_resnet_block_starts_as_its_shortcut_if_its_gain_is_zero(name, gain):
    """The gain is the last norm's scale; norms without one take no notice, and SkipInit has its own."""
    torch.manual_seed(0)
    scaled = not name.startswith("none")
    for block in resnet_blocks(name, gain):
        scales = {key: p for key, p in block.named_parameters() if key.endswith(".weight")}
        norms_scales = {key: p for key, p in scales.items() if p.ndim == 1}
        assert ("bn2.weight" in norms_scales) == scaled
        for key, scale in norms_scales.items():
            assert bool((scale == (gain if key == "bn2.weight" else 1)).all()), key
        x = torch.randn(4, block.conv1.in_channels, 8, 8)
        shortcut = x if block.downsample is None else copy.deepcopy(block.downsample)(x)
        away = float((block(x) - shortcut.relu()).detach().abs().max())
        starts = gain == 0 if scaled else name == "none-skipinit"
        assert (away == 0) if starts else (away > 0.1)


@pytest.mark.parametrize("name", [name for name in NORMS if name.startswith("none")])
def test_the_gain_of_a_branch_is_nothing_to_a_norm_without_a_scale(name):
    for zero, one in zip(resnet_blocks(name, 0), resnet_blocks(name, 1), strict=True):
        torch.testing.assert_close(zero.state_dict(), one.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("placement", ["pre", "res-post", "post"])
@pytest.mark.parametrize(("name", "starts"), NONE)
def test_vit_block_starts_as_identity(name, starts, placement):
    torch.manual_seed(0)
    x = torch.randn(3, 17, 16)
    given = options("backbone", "vit") | {"placement": placement}
    network = vit.build(ImageShape(3, 16, 16), norms(name), **given)
    blocks = [m for m in network.modules() if isinstance(m, Block | ResPostBlock)]
    assert len(blocks) == 2
    for block in blocks:
        for parameter in block.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter)
        away = float((block(x) - x).detach().abs().max())
        assert (away == 0) if starts else (away > 0.1)


@pytest.mark.parametrize(
    ("method", "backbone", "branches"),
    [
        ("supervised", "resnet", 4),
        ("supervised", "vit", 4),
        ("mae", "vit", 6),
        ("mae", "resnet", 4),
    ],
)
def test_every_residual_branch_has_a_scalar_of_its_own(method, backbone, branches):
    network = build(method, backbone, "none-skipinit")
    gains = {id(m.gain) for m in network.modules() if isinstance(m, SkipInit)}
    assert len(gains) == branches
    assert not any(isinstance(m, SkipInit) for m in build(method, backbone, "bn").modules())
