"""The vision transformer's norms, its readouts, and its encoding of the visible patches alone."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, ResPostBlock

from benchmark.backbones import vit
from benchmark.backbones.base import ImageShape, Mask, random_mask
from benchmark.backbones.masking import embedded
from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.norms.factory import EPS
from tests.helpers.small import (
    SIDE,
    backbones,
    build,
    change,
    encoder,
    images,
    norms,
    options,
    stir,
)

LN_OPTIONS = {"embed_dim": 192, "depth": 2, "num_heads": 3, "mlp_ratio": 4.0, "patch_size": 4}
FINAL_NORMS = ("before-pool", "after-pool", "class-token", "none")


def small_vit(norm="ln", **changed):
    """The tests' ViT with some options changed, no parameter at its initial value."""
    network = vit.build(
        ImageShape(3, SIDE, SIDE), norms(norm), **(options("backbone", "vit") | changed)
    )
    stir(network)
    return network.train()


def ln(x, layer):
    """The norm of a site, written with torch's function."""
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, eps=EPS)


@pytest.mark.parametrize("more", [False, True], ids=["plain", "qk and mlp"])
@pytest.mark.parametrize(("placement", "block"), [("pre", Block), ("res-post", ResPostBlock)])
def test_vit_with_ln_is_timms(placement, block, more):
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, num_classes=0, depth=2, global_pool="avg",
        fc_norm=False, block_fn=block, qk_norm=more, scale_mlp_norm=more,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=EPS),  # timm's own are 1e-6
    )  # fmt: skip
    options = {
        "placement": placement, "final_norm": "before-pool", "qk_norm": more, "mlp_norm": more,
    }  # fmt: skip
    ours = vit.build(ImageShape(3, 16, 16), norms("ln"), **LN_OPTIONS, **options)
    stir(theirs)
    ours.net.load_state_dict(theirs.state_dict())
    x = images()
    torch.testing.assert_close(ours(x), theirs(x))
    class_token = theirs.forward_features(x)[:, 0]
    torch.testing.assert_close(ours.features(x)["class_token"], class_token)
    assert ours.width == 192
    assert ours.trained == "pooled"


@pytest.mark.parametrize("sides", [(8, 8), (12, 12), (4, 4), (24, 24), (8, 20)])
def test_images_of_another_size_get_timms_resampled_positions(sides):
    """By the grid, not by the number of patches: 2 × 8 of them are not 4 × 4."""
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, num_classes=0, depth=2, global_pool="avg",
        fc_norm=False, norm_layer=functools.partial(torch.nn.LayerNorm, eps=EPS),
        dynamic_img_size=True,
    )  # fmt: skip
    given = {"placement": "pre", "final_norm": "before-pool", "qk_norm": False, "mlp_norm": False}
    ours = vit.build(ImageShape(3, 16, 16), norms("ln"), **LN_OPTIONS, **given)
    stir(theirs)
    ours.net.load_state_dict(theirs.state_dict())
    gradients = []
    for network in (ours, theirs):
        for x in (images(), F.interpolate(images(), sides), F.interpolate(images(), (8, 32))):
            network(x).square().sum().backward()
        gradients.append(network.get_parameter(f"{'net.' * (network is ours)}pos_embed").grad)
        assert float(gradients[-1].abs().max()) > 0.1
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
    x = F.interpolate(images(), sides)
    torch.testing.assert_close(ours(x), theirs(x))


def test_half_precision_adds_positions_as_precisely_at_another_size():
    network = small_vit()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = [embedded(network.net, images()), embedded(network.net, images()[:, :, :8, :8])]
    assert [x.dtype for x in tokens] == [torch.float32] * 2
    expected = embedded(network.net, images()[:, :, :8, :8])
    torch.testing.assert_close(tokens[1][:, 0], expected[:, 0], atol=0, rtol=0)  # no patch in it


@pytest.mark.parametrize("more", [False, True], ids=["plain", "qk and mlp"])
def test_post_norm_is_the_norm_of_the_sum(more):
    network = small_vit(placement="post", qk_norm=more, mlp_norm=more)
    tokens = network.net._pos_embed(network.net.patch_embed(images()))
    for block in network.net.blocks:
        found = block(tokens)
        tokens = ln(tokens + block.attn(tokens), block.norm1)
        hidden = F.gelu(block.mlp.fc1(tokens))
        if more:
            hidden = ln(hidden, block.mlp.norm)
        tokens = ln(tokens + block.mlp.fc2(hidden), block.norm2)
        torch.testing.assert_close(found, tokens)
    expected = ln(tokens, network.net.norm)[:, 1:].mean(1)
    torch.testing.assert_close(network(images()), expected)


def test_norms_of_queries_and_keys_are_of_each_heads_width():
    attention = small_vit(qk_norm=True).net.blocks[0].attn
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    q, k, v = attention.qkv(x).view(3, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
    q, k = ln(q, attention.q_norm), ln(k, attention.k_norm)
    scores = (q @ k.transpose(2, 3) / 8**0.5).softmax(3)
    expected = attention.proj((scores @ v).transpose(1, 2).reshape(3, 5, 16))
    torch.testing.assert_close(attention(x), expected)


@pytest.mark.parametrize("placement", ["pre", "res-post", "post"])
@pytest.mark.parametrize("final_norm", FINAL_NORMS)
def test_final_norm_stands_where_declared(final_norm, placement):
    network = small_vit(final_norm=final_norm, placement=placement)
    tokens = network.net.blocks(network.net._pos_embed(network.net.patch_embed(images())))
    pooled, class_token = tokens[:, 1:].mean(1), tokens[:, 0]
    if final_norm == "before-pool":
        normalized = ln(tokens, network.net.norm)
        pooled, class_token = normalized[:, 1:].mean(1), normalized[:, 0]
    elif final_norm == "after-pool":
        pooled = ln(pooled, network.net.norm)
    elif final_norm == "class-token":
        class_token = ln(class_token, network.net.norm)
    else:
        assert not list(network.net.norm.parameters())
    found = network.features(images())
    torch.testing.assert_close(found, {"pooled": pooled, "class_token": class_token})
    trained = "class_token" if final_norm == "class-token" else "pooled"
    assert network.trained == trained
    torch.testing.assert_close(network(images()), found[trained])


@pytest.mark.parametrize(
    ("final_norm", "norm"),
    [
        (final_norm, norm) for final_norm in FINAL_NORMS for f, norm in backbones()
        # SepNorm is refused at one token, see tests/norms/test_sepnorm.py.
        if f == "vit" and not (norm == "sepnorm" and final_norm in ("after-pool", "class-token"))
    ],
)  # fmt: skip
def test_final_norm_is_the_schemes(final_norm, norm):
    """Its form for the pooled embedding (N, C) is that for one token of each image."""
    network = small_vit(norm, final_norm=final_norm)
    layer = copy.deepcopy(network.net.norm)
    net = copy.deepcopy(network.net)
    tokens = net.blocks(net._pos_embed(net.patch_embed(images())))
    given = {
        "before-pool": tokens,
        "after-pool": tokens[:, 1:].mean(1, keepdim=True),
        "class-token": tokens[:, :1],
        "none": tokens,
    }[final_norm]
    expected = layer(given)
    found = network.features(images())
    if final_norm != "class-token":
        pooled = expected[:, 0] if final_norm == "after-pool" else expected[:, 1:].mean(1)
        torch.testing.assert_close(found["pooled"], pooled)
    if final_norm != "after-pool":
        torch.testing.assert_close(found["class_token"], expected[:, 0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"patch_size": 5}, "patch_size 5 does not divide 16×16"),
        ({"num_heads": 3}, "num_heads 3 does not divide embed_dim 16"),
    ],
)
def test_vit_that_cannot_be_built_is_refused(changed, message):
    with pytest.raises(UserError, match=message):
        small_vit(**changed)


@pytest.mark.parametrize(
    ("changed", "width"),
    [({"qk_norm": True, "num_heads": 8}, 2), ({"mlp_norm": True, "mlp_ratio": 1.125}, 18)],
)
def test_norm_that_a_further_site_cannot_have_is_refused(changed, width):
    with pytest.raises(UserError, match=f"groups 4 do not divide {width} channels"):
        small_vit("gn", **changed)


def test_masks_are_on_the_vits_own_patches():
    with pytest.raises(UserError, match="patch 8 is not the ViT's patch 4"):
        encoder("vit", "ln").prepare_masking(8)
    encoder("vit", "ln").prepare_masking(4)


def test_mae_has_no_pool_for_a_norm_to_stand_after(monkeypatch):
    with pytest.raises(UserError, match="final_norm cannot be 'after-pool'"):
        small_vit(final_norm="after-pool").prepare_masking(4)
    for final_norm in FINAL_NORMS:
        change(monkeypatch, "backbone", "vit", final_norm=final_norm)
        if final_norm == "after-pool":
            with pytest.raises(UserError, match="final_norm cannot be 'after-pool'"):
                build("mae", "vit", "ln")
        else:
            build("mae", "vit", "ln")


@pytest.mark.parametrize("final_norm", ["before-pool", "class-token", "none"])
@pytest.mark.parametrize("placement", ["pre", "res-post", "post"])
def test_with_nothing_hidden_masked_encoding_has_the_readouts(placement, final_norm):
    network = small_vit(placement=placement, final_norm=final_norm)
    nothing = Mask(torch.zeros(8, 16, dtype=torch.bool), torch.arange(16).expand(8, 16), 4)
    tokens, expected = network.encode_masked(images(), nothing), network.features(images())
    torch.testing.assert_close(tokens[:, 0], expected["class_token"])
    torch.testing.assert_close(tokens[:, 1:].mean(1), expected["pooled"])


ALONE = [
    n for f, n in backbones() if f == "vit" and not registry.facts("norm", n)["batch_dependent"]
]


@pytest.mark.parametrize(
    ("norm", "placement"),
    [*((norm, "pre") for norm in ALONE), ("ln", "res-post"), ("ln", "post")],
)
def test_leaving_patches_out_is_not_attending_to_them(norm, placement):
    network = small_vit(norm, placement=placement)
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
