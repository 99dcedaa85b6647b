"""The ResNet against timm's own, and its decoder against plain operations."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from torch import nn

from benchmark.backbones import masking, resnet
from benchmark.backbones.base import ImageShape, random_mask
from benchmark.components import registry
from benchmark.core.errors import UserError
from tests.helpers.small import backbones, encoder, norms, stir

RESNET = [norm for backbone, norm in backbones() if backbone == "resnet"]
RESNET18 = {"channels": [64, 128, 256, 512], "layers": [2, 2, 2, 2]}
STEMS = {
    "large": {"stem_kernel": 7, "stem_stride": 2, "stem_pool": True},
    "small": {"stem_kernel": 3, "stem_stride": 1, "stem_pool": False},
}


@pytest.mark.parametrize("stem", STEMS)
def test_wide_resnet_with_bn_is_timms(stem):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=0)
    if stem == "small":
        theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        theirs.maxpool = nn.Identity()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1:  # timm, too, starts the last norm of a branch at zero
                parameter.add_(0.5 * torch.rand_like(parameter))
    ours = resnet.build(
        ImageShape(3, 32, 32), norms("bn"), **RESNET18, **STEMS[stem], branch_gain=0
    )
    ours.net.load_state_dict(theirs.state_dict())
    assert ours.width == 512
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for training in (True, False):
            ours.train(training)
            theirs.train(training)
            torch.testing.assert_close(ours(x), theirs(x))


def after(activates, x):
    """What follows a norm in timm's ResNet, but where the norm brings its own."""
    return x if activates else F.relu(x)


@pytest.mark.parametrize("name", RESNET)
def test_norms_own_activation_replaces_the_relu_after_it_and_no_other(name):
    activates = bool(registry.facts("norm", name).get("activates"))
    network = encoder("resnet", name).train()
    stir(network)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    net = copy.deepcopy(network.net)
    with torch.no_grad():
        found = network(x)
        x = after(activates, net.bn1(net.conv1(x)))
        for block in (m for m in net.modules() if isinstance(m, BasicBlock)):
            shortcut = x if block.downsample is None else block.downsample(x)
            x = after(activates, block.bn1(block.conv1(x)))
            x = block.bn2(block.conv2(x))
            if name == "none-skipinit":
                x = x * block.drop_path.gain
            x = F.relu(x + shortcut)
        torch.testing.assert_close(found, x.mean((2, 3)))


@pytest.mark.parametrize("name", RESNET)
def test_decoder_has_one_activation(name):
    decoder = masking.MapDecoder(6, 8, norms(name, "decoder"), 4, ImageShape(3, 16, 16))
    expected = nn.Identity if registry.facts("norm", name).get("activates") else nn.ReLU
    assert type(decoder.act) is expected


@pytest.mark.parametrize(("channels", "layers"), [([8] * 3, [1] * 3), ([8] * 4, [1] * 3)])
def test_other_than_four_stages_are_refused(channels, layers):
    with pytest.raises(UserError, match="must have four entries each"):
        resnet.build(
            ImageShape(3, 16, 16), norms("bn"), channels, layers, **STEMS["small"], branch_gain=1
        )


@pytest.mark.parametrize("size", [1, 2, 4, 7])
@pytest.mark.parametrize("out", [1, 2, 3, 4, 7, 14])
def test_resampling_is_torchs(size, out):
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    matrix = masking._bilinear(size, out, x)
    expected = F.interpolate(x, (out, out), mode="bilinear", align_corners=False)
    torch.testing.assert_close(matrix @ x @ matrix.T, expected)


@pytest.mark.parametrize("norm", ["bn", "none-plain"])
def test_decoder_places_each_patch_where_the_mask_counts_it(norm):
    torch.manual_seed(0)
    decoder = masking.MapDecoder(6, 8, norms(norm, "decoder"), 2, ImageShape(3, 8, 8))
    mask = random_mask(2, 4, 0.5, 2, torch.Generator().manual_seed(0))
    encoded = torch.randn(2, 6, 2, 3)
    resampled = F.interpolate(encoded, (4, 4), mode="bilinear", align_corners=False)
    decoded = decoder.read(F.relu(decoder.norm(decoder.mix(resampled))))
    found = decoder(encoded, mask)
    assert found.shape == (2, 16, 2 * 2 * 3)
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(found[:, 4 * row + column], decoded[:, :, row, column])
