"""The vision transformer's readouts, and its encoding of the visible patches alone."""

from __future__ import annotations

import pytest
import timm
import torch

from benchmark.backbones import vit
from benchmark.backbones.base import ImageShape, random_mask
from benchmark.errors import UserError
from tests.small import backbone, build, images, norms, stir


def test_vit_with_ln_is_timms():
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, num_classes=0, depth=2, global_pool="avg",
        fc_norm=False,
    )  # fmt: skip
    ours = vit.build(ImageShape(3, 16, 16), norms("ln"), 192, 2, 3, 4.0, 4)
    stir(theirs)
    ours.net.load_state_dict(theirs.state_dict())
    x = images()
    torch.testing.assert_close(ours(x), theirs(x))
    class_token = theirs.forward_features(x)[:, 0]
    torch.testing.assert_close(ours.features(x)["class_token"], class_token)
    assert ours.width == 192


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"patch": 5}, "patch 5 does not divide 16×16"), ({"heads": 3}, "heads 3 do not divide")],
)
def test_vit_that_cannot_be_built_is_refused(changed, message):
    given = {"width": 16, "depth": 1, "heads": 2, "mlp_ratio": 2, "patch": 4} | changed
    with pytest.raises(UserError, match=message):
        vit.build(ImageShape(3, 16, 16), norms("ln"), **given)


def test_masks_are_on_the_vits_own_patches():
    with pytest.raises(UserError, match="patch 8 is not the ViT's patch 4"):
        backbone("vit", "ln").check_masking(8)
    backbone("vit", "ln").check_masking(4)


@pytest.mark.parametrize("norm", ["ln", "gn", "none-plain"])
def test_leaving_patches_out_is_not_attending_to_them(norm):
    network = backbone("vit", norm)
    stir(network)
    x, mask = images(), random_mask(8, 4, 0.75, 4, torch.Generator().manual_seed(0))
    ignored = torch.cat((torch.zeros(8, 1, dtype=torch.bool), mask.hidden), 1)
    tokens = network.net._pos_embed(network.net.patch_embed(x))
    for block in network.net.blocks:
        tokens = block(tokens, attn_mask=~ignored[:, None, None, :].expand(-1, 1, 17, -1))
    expected = network.net.norm(tokens)[~ignored].view(8, 5, 16)
    torch.testing.assert_close(network.encode_masked(x, mask), expected, atol=1e-5, rtol=1e-4)


def test_decoder_puts_mask_tokens_in_the_hidden_places():
    decoder = build("mae", "vit", "ln").decoder
    stir(decoder)
    mask = random_mask(3, 4, 0.75, 4, torch.Generator().manual_seed(0))
    encoded = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    rows = []
    for image in range(3):
        visible = iter(decoder.embed(encoded[image]))
        places = [False, *mask.hidden[image].tolist()]  # the class token, then the grid
        rows.append(torch.stack([decoder.mask_token[0, 0] if h else next(visible) for h in places]))
    tokens = decoder.block(torch.stack(rows) + decoder.pos_embed)
    expected = decoder.read(decoder.norm(tokens))[:, 1:]
    assert expected.shape == (3, 16, 4 * 4 * 3)
    torch.testing.assert_close(decoder(encoded, mask), expected)
