"""Views and batches of held-out images, and networks that forget them."""

from __future__ import annotations

import contextlib
import copy

import torch

from benchmark.diagnostics.held_out import HeldOut, batches, by_image
from benchmark.evaluation.features import preserve_state
from tests.golden.values import VIEWS
from tests.helpers.diagnosed import photos, standardise
from tests.helpers.small import build, images


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_images_are_dealt_and_put_back() -> None:
    dealt = batches(4, 3, 5, 0)
    assert dealt.shape == (4, 3, 5)
    assert all(torch.equal(one.flatten().sort().values, torch.arange(15)) for one in dealt)
    assert len({tuple(one.flatten().tolist()) for one in dealt}) == 4
    x = noise(15, 2)
    mates = by_image(lambda i: {"own": x[i], "mean": x[i].mean(0).expand(5, 2)}, dealt)
    assert torch.equal(mates["own"], x.expand(4, 15, 2))
    for redraw in range(4):
        (mine,) = [index for index in dealt[redraw] if 7 in index]
        torch.testing.assert_close(mates["mean"][redraw, 7], x[mine].mean(0))


def test_views_go_by_turns_and_images_by_an_order() -> None:
    plain = {**VIEWS, "crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip": 0.0}
    plain |= {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    held = HeldOut(photos(30), [plain, plain | {"solarize": 1.0}], standardise, 0)
    originals = photos(30).float() / 255 - 0.5
    clean = held.views(0, 30, 0)
    order = [int((originals - one).abs().amax((1, 2, 3)).argmin()) for one in clean]
    assert sorted(order) == list(range(30))
    assert order != list(range(30))
    torch.testing.assert_close(clean, originals[order])
    torch.testing.assert_close(held.views(10, 5, 2), clean[10:15])
    torch.testing.assert_close(held.views(0, 30, 1), torch.where(clean >= 0, -clean, clean))
    augmented = HeldOut(photos(30), [VIEWS], standardise, 0)
    assert torch.equal(augmented.views(0, 8, 0), copy.copy(augmented).views(0, 8, 0))
    assert not torch.equal(augmented.views(0, 8, 0), augmented.views(0, 8, 1))


def test_networks_forget_what_they_saw() -> None:
    network = build("simclr", "resnet", "bn").train()
    before = copy.deepcopy(network.state_dict())
    with contextlib.suppress(ZeroDivisionError), preserve_state(network):
        network.backbone(images())
        network.eval()
        assert any(not torch.equal(v, before[k]) for k, v in network.state_dict().items())
        raise ZeroDivisionError
    assert network.training
    assert network.backbone.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
