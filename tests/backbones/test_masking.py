"""Patches, masks, and that no backbone looks at hidden pixels."""

from __future__ import annotations

import copy

import pytest
import torch
from lightly.models.utils import patchify

from benchmark.backbones.base import ImageShape, Mask, MaskedBackbone, patches, random_mask
from benchmark.backbones.pixels import build as pixels
from tests.helpers.small import backbones, batch, build, encoder, images, norms, stir


def test_patches_are_rows_of_little_images():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    found = patches(x, 2)
    assert found.shape == (2, 6, 12)
    again = torch.empty_like(x)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                patch = found[image, 3 * row + column].view(2, 2, 3)
                again[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = patch.permute(
                    2, 0, 1
                )
    assert torch.equal(again, x)


def test_patches_are_lightlys():
    assert torch.equal(patches(images(), 4), patchify(images(), 4))


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 12), (0.5, 8), (0.6, 10), (0.01, 0)])
def test_every_image_hides_the_same_number(ratio, hidden):
    mask = random_mask(50, 4, ratio, 7, torch.Generator().manual_seed(0))
    assert mask.patch == 7
    assert mask.hidden.shape == (50, 16)
    for row, visible in zip(mask.hidden, mask.visible, strict=True):
        assert int(row.sum()) == hidden
        assert visible.tolist() == [place for place in range(16) if not row[place]]


def test_every_patch_is_hidden_as_often_and_masks_differ():
    n = 4000
    mask = random_mask(n, 4, 0.75, 4, torch.Generator().manual_seed(0))
    deviation = (0.75 * 0.25 / n) ** 0.5
    assert float((mask.hidden.float().mean(0) - 0.75).abs().max()) < 4 * deviation
    # 1820 masks are possible: 4000 draws meet 1618 of them on average, give or take 13.
    assert 1550 < len(mask.hidden.unique(dim=0)) < 1690
    again = random_mask(n, 4, 0.75, 4, torch.Generator().manual_seed(0))
    assert torch.equal(mask.hidden, again.hidden)


def masked_backbone(backbone, norm):
    network = encoder(backbone, norm)
    assert isinstance(network, MaskedBackbone)
    network.prepare_masking(4)
    stir(network)
    return network.train()


def encode(network, x, mask):
    """A first forward pass, whatever the norms remember of earlier ones."""
    return copy.deepcopy(network).encode_masked(x, mask)


@pytest.mark.parametrize(("backbone", "norm"), backbones())
def test_hidden_pixels_have_no_influence_and_visible_ones_have(backbone, norm):
    network = masked_backbone(backbone, norm)
    x, mask = images(), random_mask(8, 4, 0.75, 4, torch.Generator().manual_seed(0))
    hidden = torch.zeros(8, 16, 16, dtype=torch.bool)
    for image, row in enumerate(mask.hidden):
        for place in torch.nonzero(row).flatten().tolist():
            top, left = 4 * (place // 4), 4 * (place % 4)
            hidden[image, top : top + 4, left : left + 4] = True
    with torch.no_grad():
        encoded = encode(network, x, mask)
        elsewhere = torch.where(hidden[:, None], x + 5, x)
        assert torch.equal(encode(network, elsewhere, mask), encoded)
        for image in range(8):
            seen = x.clone()
            place = int(mask.visible[image, 2])
            seen[image, :, 4 * (place // 4), 4 * (place % 4)] += 5
            moved = (encode(network, seen, mask) - encoded).abs()
            assert float(moved[image].max()) > 1e-3


@pytest.mark.parametrize(("backbone", "norm"), backbones())
def test_with_nothing_hidden_it_is_the_ordinary_encoding(backbone, norm):
    network = masked_backbone(backbone, norm)
    everything = torch.arange(16).expand(8, 16)
    mask = Mask(torch.zeros(8, 16, dtype=torch.bool), everything, 4)
    expected = copy.deepcopy(network).net.forward_features(images())
    torch.testing.assert_close(encode(network, images(), mask), expected)


def test_pixels_are_the_image_itself():
    network = pixels(ImageShape(3, 16, 16), norms("bn"), 0)
    assert network.width == 3 * 16 * 16
    assert torch.equal(network(images()).view(8, 3, 16, 16), images())


RESNET = [norm for backbone, norm in backbones() if backbone == "resnet"]


def pasted(x, mask, patch):
    """The images with a patch in each hidden place, pixel by pixel."""
    y = x.clone()
    for image, row in enumerate(mask.hidden):
        for place in torch.nonzero(row).flatten().tolist():
            top, left = 4 * (place // 4), 4 * (place % 4)
            y[image, :, top : top + 4, left : left + 4] = patch[0]
    return y


@pytest.mark.parametrize("norm", RESNET)
def test_a_resnet_sees_a_learnt_patch_in_each_hidden_place(norm):
    network = masked_backbone("resnet", norm)
    assert network.mask_patch.shape == (1, 3, 4, 4)
    x, mask = images(), random_mask(8, 4, 0.75, 4, torch.Generator().manual_seed(0))
    expected = copy.deepcopy(network).net.forward_features(pasted(x, mask, network.mask_patch))
    found = encode(network, x, mask)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        network.mask_patch.add_(1)
    assert not torch.allclose(encode(network, x, mask), found, atol=1e-3)


@pytest.mark.parametrize("norm", RESNET)
def test_the_learnt_patch_gets_a_gradient_and_hidden_pixels_none(norm):
    network = build("mae", "resnet", norm).train()
    stir(network)  # a branch that is off would keep pixels between its strides from the encoding
    given = batch("mae")
    view = given.views[0].requires_grad_()
    # The targets are pixels too: the gradient is taken through the prediction alone.
    mask = network.mask(len(view), given.draw.generator("mask"))
    prediction, _, _ = network.reconstruct(view, mask)
    cotangent = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(0))
    (prediction * cotangent).sum().backward()
    assert float(network.backbone.mask_patch.grad.abs().max()) > 0
    reached = patches(view.grad, 4).abs().amax(2)
    assert float(reached[mask.hidden].max()) == 0
    assert float(reached[~mask.hidden].min()) > 0


def test_only_masked_images_need_the_patch():
    assert not hasattr(build("supervised", "resnet", "bn").backbone, "mask_patch")
    assert not hasattr(build("mae", "vit", "ln").backbone, "mask_patch")  # it leaves patches out
