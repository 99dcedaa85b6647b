"""Norms are told the truth about the place where they stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.backbones import resnet, vit
from benchmark.backbones.base import ImageShape, random_mask
from benchmark.norms.factory import SectionNorms
from tests.helpers.small import images, options

RESNET = options("backbone", "resnet")
STEMS = {
    "small": {"stem_kernel": 3, "stem_stride": 1, "stem_pool": False},
    "large": {"stem_kernel": 7, "stem_stride": 2, "stem_pool": True},
    "strided": {"stem_kernel": 4, "stem_stride": 3, "stem_pool": False},
    "pooled": {"stem_kernel": 1, "stem_stride": 1, "stem_pool": True},
}


class Told(SectionNorms):
    """Hands out layers that compare what comes with what was said of it."""

    def __init__(self):
        super().__init__("backbone", {"norm": "ln"})
        self.told, self.seen = [], []

    def build(self, site):
        layer, number = super().build(site), len(self.told)
        self.told.append((site.shape, site.positions))

        def see(module, inputs):
            (x,) = inputs
            channels_first = site.shape == "map"
            assert x.shape[1 if channels_first else -1] == site.width
            found = x[0].numel() // site.width
            self.seen.append((number, x.ndim == 4 if channels_first else x.ndim >= 3, found))

        layer.register_forward_pre_hook(see)
        return layer

    def assert_true(self, count):
        assert len(self.told) == count
        assert sorted(self.seen) == [(n, True, found) for n, (_, found) in enumerate(self.told)]


@pytest.mark.parametrize("sides", [(16, 16), (28, 28), (17, 39), (2, 5)])
@pytest.mark.parametrize("stem", STEMS)
def test_resnet_tells_each_norm_its_positions(stem, sides):
    told = Told()
    options = RESNET | STEMS[stem] | {"layers": [1, 2, 1, 1]}
    network = resnet.build(ImageShape(3, *sides), told, **options)
    network(torch.randn(2, 3, *sides))
    told.assert_true(1 + 2 * 5 + 3)  # the stem, two in each block, three shortcuts


@pytest.mark.parametrize(("backbone", "count"), [(resnet, 1 + 8 + 3), (vit, 4 + 1)])
@pytest.mark.parametrize("patch", [4, 8])
def test_decoder_tells_each_norm_its_positions(backbone, count, patch):
    backbone_told, told = Told(), Told()
    given = options("backbone", "resnet" if backbone is resnet else "vit")
    if backbone is vit:
        given = given | {"patch_size": patch}
    network = backbone.build(ImageShape(3, 16, 16), backbone_told, **given)
    network.prepare_masking(patch)
    decoder = network.decoder(told, 8, patch)
    mask = random_mask(8, 16 // patch, 0.75, patch, torch.Generator().manual_seed(0))
    decoder(network.encode_masked(images(), mask), mask)
    told.assert_true(1 if backbone is resnet else 3)
    assert len(backbone_told.told) == count


@pytest.mark.parametrize("final_norm", ["before-pool", "after-pool", "class-token", "none"])
@pytest.mark.parametrize("placement", ["pre", "res-post", "post"])
@pytest.mark.parametrize("more", [False, True], ids=["plain", "qk and mlp"])
def test_vit_tells_each_norm_its_positions(placement, final_norm, more):
    told = Told()
    changed = {
        "placement": placement, "final_norm": final_norm, "mlp_norm": more, "qk_norm": more,
    }  # fmt: skip
    network = vit.build(ImageShape(3, 8, 12), told, **(options("backbone", "vit") | changed))
    if final_norm == "after-pool":  # the pooled embedding (N, C) is one position of each image
        assert told.told[-1] == ("tokens", 1)
        network.net.norm = nn.Identity()
        told.told.pop()
    network(torch.randn(2, 3, 8, 12))
    told.assert_true(2 * (5 if more else 2) + (final_norm in ("before-pool", "class-token")))
    tokens = {found for _, found in told.told}
    heads = {14} if more else set()  # 7 tokens in each of two heads
    assert tokens == {7} | heads | ({1} if final_norm == "class-token" else set())
