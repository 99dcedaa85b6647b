"""No normalization: what takes its place on residual branches."""

from __future__ import annotations

import pytest
import torch
from timm.models.resnet import BasicBlock
from timm.models.vision_transformer import Block

from benchmark.norms.factory import SkipInit
from tests.small import backbone, build


def resnet_blocks(name):
    blocks = [m for m in backbone("resnet", name).modules() if isinstance(m, BasicBlock)]
    assert len(blocks) == 4
    return blocks


def away_from_shortcut(block, width):
    torch.manual_seed(0)
    x = torch.randn(4, width, 8, 8)
    shortcut = x if block.downsample is None else block.downsample(x)
    return float((block(x) - shortcut.relu()).detach().abs().max())


@pytest.mark.parametrize(("name", "starts"), [("none-skipinit", True), ("none-plain", False)])
def test_resnet_block_starts_as_its_shortcut(name, starts):
    blocks = resnet_blocks(name)
    assert any(block.downsample is None for block in blocks)
    for block in blocks:
        away = away_from_shortcut(block, block.conv1.in_channels)
        assert (away == 0) if starts else (away > 0.1)


@pytest.mark.parametrize("name", ["bn", "ln", "gn"])
def test_resnet_branch_that_ends_in_a_norm_starts_at_zero_too(name):
    for block in resnet_blocks(name):
        assert away_from_shortcut(block, block.conv1.in_channels) == 0


@pytest.mark.parametrize(("name", "starts"), [("none-skipinit", True), ("none-plain", False)])
def test_vit_block_starts_as_identity(name, starts):
    torch.manual_seed(0)
    x = torch.randn(3, 17, 16)
    blocks = [m for m in backbone("vit", name).modules() if isinstance(m, Block)]
    assert len(blocks) == 2
    for block in blocks:
        away = float((block(x) - x).detach().abs().max())
        assert (away == 0) if starts else (away > 0.1)


@pytest.mark.parametrize(
    ("method", "family", "branches"),
    [
        ("supervised", "resnet", 4),
        ("supervised", "vit", 4),
        ("mae", "vit", 6),
        ("mae", "resnet", 4),
    ],
)
def test_every_residual_branch_has_a_scalar_of_its_own(method, family, branches):
    network = build(method, family, "none-skipinit")
    gains = {id(m.gain) for m in network.modules() if isinstance(m, SkipInit)}
    assert len(gains) == branches
    assert not any(isinstance(m, SkipInit) for m in build(method, family, "bn").modules())
