"""Random views against torchvision, image by image, and what their randomness depends on."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.transforms.functional as TF
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from benchmark.data import augment
from benchmark.data.augment import (
    blur_all,
    color_jitter,
    gaussian_blur,
    jitter_all,
    resized_crop,
    view,
)
from tests.helpers.small import LIVELY

STILL = {
    "crop_scale": [1.0, 1.0],
    "crop_ratio": [1.0, 1.0],
    "flip": 0.0,
    "jitter": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "grayscale": 0.0,
    "blur": 0.0,
    "solarize": 0.0,
}
"""The view that changes nothing."""


def keyed(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n=8, channels=3, side=28, seed=0):
    return torch.rand(n, channels, side, side, generator=keyed(seed))


def located(n, side):
    """Three channels of noise, then each pixel's row and column, from which a crop can be read."""
    row = torch.arange(float(side)).view(1, 1, -1, 1).expand(n, 1, side, side)
    return torch.cat((pictures(n, 3, side), row, row.transpose(2, 3)), 1)


def boxes(cropped):
    """top, left, height, width and whether mirrored, of each crop of `located` images.

    A bilinear stretch keeps a ramp's mean, and its slope in the middle.
    """
    side = cropped.shape[2]
    found = []
    for row, column in cropped[:, 3:]:
        ends = []
        for ramp in (row[:, 0], column[0]):
            slope = float(ramp[side // 2] - ramp[side // 2 - 1]) * side
            length = round(abs(slope))
            ends.append((round(float(ramp.mean()) - (length - 1) / 2), length, slope < 0))
        (top, height, upside_down), (left, width, mirrored) = ends
        assert not upside_down
        found.append((top, left, height, width, mirrored))
    return found


def crop(x, scale, ratio, flip, generator, size=0):
    spec = STILL | {"crop_scale": scale, "crop_ratio": ratio, "flip": flip}
    return resized_crop(x, augment.draw(len(x), spec, generator, x.shape[2:]), size)


def crops(n, scale, ratio, flip, side=28, seed=0):
    x = located(n, side)
    cropped = crop(x, scale, ratio, flip, keyed(seed))
    return x, cropped, boxes(cropped)


@pytest.mark.parametrize("scale", [[0.3, 1.0], [0.05, 0.3]])
@pytest.mark.parametrize("side", [28, 32])
def test_crop_and_flip_are_torchvisions(scale, side):
    x, cropped, found = crops(40, scale, [0.75, 4 / 3], 0.5, side)
    assert {box[-1] for box in found} == {False, True}
    for image, result, (top, left, height, width, mirrored) in zip(x, cropped, found, strict=True):
        expected = TF.resized_crop(
            image, top, left, height, width, [side, side], antialias=True
        )  # fmt: skip
        expected = TF.hflip(expected) if mirrored else expected
        torch.testing.assert_close(result, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 7, 14, 27, 28, 40])
@pytest.mark.parametrize("side", [28, 31])
def test_crop_to_another_size_is_torchvisions(side, size):
    """Antialiased where it shrinks, whatever the crop: here most shrink on one axis at least."""
    given = [0.05, 1.0], [0.5, 2.0], 0.5
    x, _, found = crops(60, *given, side)
    resized = crop(x, *given, keyed(), size)
    assert resized.shape == (60, 5, size, size)
    shrunk = {(height > size, width > size) for _, _, height, width, _ in found}
    if size == 14:
        assert len(shrunk) == 4
    for image, result, (top, left, height, width, mirrored) in zip(x, resized, found, strict=True):
        expected = TF.resized_crop(image, top, left, height, width, [size, size], antialias=True)
        expected = TF.hflip(expected) if mirrored else expected
        torch.testing.assert_close(result, expected, atol=2e-5, rtol=1e-5)


def test_crop_of_an_oblong_image_to_a_square_is_torchvisions():
    x = pictures(1, 3, 40)[:, :, :24]
    whole = [1.0, 1.0], [3 / 5, 3 / 5], 0.0  # a box of the image's own form
    for size in (10, 30):
        expected = TF.resize(x, [size, size], antialias=True)
        torch.testing.assert_close(crop(x, *whole, keyed(), size), expected, atol=2e-5, rtol=1e-5)


def test_the_images_own_size_changes_no_bit():
    x = pictures(64)
    assert torch.equal(view(x, LIVELY | {"size": 28}, keyed()), view(x, LIVELY, keyed()))


def test_operations_after_a_resize_are_on_the_smaller_view():
    x = pictures()
    spec = STILL | {"crop_scale": [0.2, 1.0], "size": 12}
    plain = view(x, spec, keyed())
    blurred = view(x, spec | {"blur": 1.0, "solarize": 1.0}, keyed())
    sigma = augment.draw(8, spec, keyed(), (28, 28)).sigma
    expected = TF.solarize(gaussian_blur(plain, sigma), 0.5)
    torch.testing.assert_close(blurred, expected)


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [([0.3, 1.0], [0.75, 4 / 3]), ([0.08, 1.0], [0.75, 4 / 3]), ([0.6, 1.0], [0.5, 2.0])],
)
def test_boxes_are_distributed_as_torchvisions(scale, ratio):
    n, side = 3000, 28
    x = located(1, side).expand(n, -1, -1, -1)
    mine = torch.tensor(boxes(crop(x, scale, ratio, 0.5, keyed()))).float()
    torch.manual_seed(0)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(x[0], scale, ratio) for _ in range(n)]
    ).float()
    assert abs(float(mine[:, 4].mean()) - 0.5) < 4 * 0.5 / math.sqrt(n)
    for look in (
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3],
        lambda box: box[:, 0] / (side - box[:, 2] + 1),
        lambda box: box[:, 1] / (side - box[:, 3] + 1),
    ):
        assert stats.ks_2samp(look(mine), look(theirs)).pvalue > 0.01
    # Height, width and their places may depend on each other in the same way alone.
    torch.testing.assert_close(mine[:, :4].T.corrcoef(), theirs.T.corrcoef(), atol=0.08, rtol=0)


def test_box_that_never_fits_becomes_the_whole_image():
    x, cropped, _ = crops(5, [1.0, 1.0], [3.0, 4.0], 0.0)
    torch.testing.assert_close(cropped, x)


def test_flip_is_a_mirror_and_leaves_the_crop():
    x = pictures()
    plain = view(x, LIVELY | {"flip": 0.0}, keyed())
    assert torch.allclose(view(x, LIVELY | {"flip": 1.0}, keyed()), TF.hflip(plain), atol=1e-5)
    torch.testing.assert_close(view(x, STILL, keyed()), x)


def amounts(strengths, factors):
    """What torchvision's ColorJitter would draw from these uniform numbers."""
    spans = [(max(0.0, 1 - s), 1 + s) for s in strengths[:3]] + [(-strengths[3], strengths[3])]
    return [low + float(f) * (high - low) for (low, high), f in zip(spans, factors, strict=True)]


OPERATIONS = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


@pytest.mark.parametrize("jitter", [color_jitter, jitter_all])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "strengths",
    [
        [0.4, 0, 0, 0],
        [0, 0.4, 0, 0],
        [0, 0, 0.4, 0],
        [0, 0, 0, 0.5],
        [0.8, 0.8, 0.8, 0.2],
        [1.5, 1.5, 1.5, 0.5],
    ],
)
def test_jitter_is_torchvisions_in_each_images_own_order(strengths, channels, jitter):
    n = 24
    x = pictures(n, channels)
    x[0, :, :9] = 0.5  # grey pixels, which have no hue
    factors = torch.rand(n, 4, generator=keyed(1))
    order = torch.rand(n, 4, generator=keyed(2)).argsort(1)
    applied = torch.arange(n) % 4 != 3
    found = jitter(x, strengths, factors, order, applied)
    for place in range(n):
        expected = x[place]
        for which in order[place].tolist() if applied[place] else []:
            if strengths[which] and (channels == 3 or which < 2):
                amount = amounts(strengths, factors[place])[which]
                expected = OPERATIONS[which](expected, amount)
        torch.testing.assert_close(found[place], expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("jitter", [color_jitter, jitter_all])
def test_pure_colours_keep_their_hue_and_turn_as_torchvisions(jitter):
    colours = torch.tensor([[r, g, b] for r in (0, 1.0) for g in (0, 1.0) for b in (0, 1.0)])
    x = colours.T.reshape(1, 3, 2, 4)
    for draw in (0.0, 0.3, 0.5, 1.0):
        factors = torch.full((1, 4), draw)
        applied = torch.ones(1, dtype=torch.bool)
        found = jitter(x, [0, 0, 0, 0.5], factors, torch.arange(4)[None], applied)
        torch.testing.assert_close(found, TF.adjust_hue(x, draw - 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("blur", [gaussian_blur, blur_all])
@pytest.mark.parametrize("part", [1, 1 << 26])
@pytest.mark.parametrize(("side", "kernel"), [(28, 3), (32, 5), (64, 7)])
def test_blur_is_torchvisions_with_each_images_own_sigma(side, kernel, part, blur, monkeypatch):
    monkeypatch.setattr(augment, "BLUR_BYTES", part)
    x = pictures(6, 3, side)
    sigma = torch.tensor([0.1, 0.3, 0.7, 1.0, 1.5, 2.0])
    found = blur(x, sigma)
    for image, blurred, width in zip(x, found, sigma.tolist(), strict=True):
        expected = TF.gaussian_blur(image, [kernel, kernel], [width, width])
        torch.testing.assert_close(blurred, expected, atol=1e-5, rtol=1e-5)


def test_widths_of_the_blur_are_uniform():
    n = 1500
    x = torch.zeros(n, 1, 9, 9)
    x[:, :, 4, 4] = 1  # a point: what is left of it is the kernel's middle, squared
    middle = view(x, STILL | {"blur": 1.0}, keyed())[:, 0, 4, 4].double().sqrt()
    sigma = (-0.5 / ((1 / middle - 1) / 2).log()).sqrt()
    seen = sigma[sigma > 0.3]  # narrower ones leave the point as it is, up to rounding
    assert stats.kstest(seen.numpy(), stats.uniform(0.3, 1.7).cdf).pvalue > 0.01
    assert abs(len(seen) / n - 1.7 / 1.9) < 0.03


def test_gray_is_torchvisions():
    x = pictures()
    expected = TF.rgb_to_grayscale(x, num_output_channels=3)
    torch.testing.assert_close(view(x, STILL | {"grayscale": 1.0}, keyed()), expected)
    grey = pictures(channels=1)
    torch.testing.assert_close(view(grey, STILL | {"grayscale": 1.0}, keyed()), grey)


def test_solarize_is_torchvisions():
    x = pictures()
    expected = TF.solarize(x, 0.5)
    torch.testing.assert_close(view(x, STILL | {"solarize": 1.0}, keyed()), expected)


@pytest.mark.parametrize("field", ["jitter", "grayscale", "blur", "solarize"])
def test_probabilities_are_kept(field):
    n, probability = 2000, 0.3
    x = pictures(n, 3, 6)
    spec = STILL | {field: probability}
    if field == "jitter":
        spec["brightness"] = 0.4
    changed = (view(x, spec, keyed()) - x).abs().amax((1, 2, 3)) > 1e-4
    assert abs(float(changed.float().mean()) - probability) < 4 * math.sqrt(0.21 / n)


def test_orders_and_amounts_of_jitter_are_uniform(monkeypatch):
    logged = {}

    def log(x, strengths, factors, order, applied):
        logged.update(strengths=strengths, factors=factors, order=order, applied=applied)
        return x

    monkeypatch.setattr(augment, "color_jitter", log)
    n = 2400
    view(pictures(n, 1, 4), LIVELY, keyed())
    assert logged["strengths"] == [0.4, 0.4, 0.4, 0.1]
    assert abs(float(logged["applied"].float().mean()) - 0.8) < 4 * math.sqrt(0.16 / n)
    orders, counts = logged["order"].unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders.tolist())
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    for column in logged["factors"].T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 0.01
    assert float((logged["factors"].T.corrcoef() - torch.eye(4)).abs().max()) < 0.1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 5, 64])
def test_views_made_together_have_the_bits_of_views_made_alone(n, channels):
    x = pictures(n, channels, 28)
    local = LIVELY | {"crop_scale": [0.05, 0.3], "size": 12}
    for specs in (
        [LIVELY, LIVELY],
        [LIVELY, LIVELY | {"blur": 0.0}],
        [LIVELY],
        [LIVELY] * 4,
        [LIVELY, LIVELY, local, local, local],
        [LIVELY, local, LIVELY],
    ):
        given = [keyed(number) for number in range(len(specs))]
        together = augment.views(x, specs, given)
        assert len(together) == len(specs)
        for number, (spec, one) in enumerate(zip(specs, together, strict=True)):
            assert torch.equal(one, view(x, spec, keyed(number)))
    # A view of one's own draws, not of the first one's.
    assert not torch.equal(*augment.views(x, [LIVELY] * 2, [keyed(0), keyed(1)]))


def test_operations_follow_each_other_as_in_simclr():
    """Crop, jitter, gray, blur, solarize: each on what the one before it gave."""
    x = pictures()
    spec = LIVELY | {"jitter": 1.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    jittered = view(x, spec, keyed())
    gray = view(x, spec | {"grayscale": 1.0}, keyed())
    torch.testing.assert_close(gray, TF.rgb_to_grayscale(jittered, num_output_channels=3))
    blurred = view(x, spec | {"grayscale": 1.0, "blur": 1.0}, keyed())
    assert float((blurred - gray).abs().max()) > 0.01
    solarized = view(x, spec | {"grayscale": 1.0, "blur": 1.0, "solarize": 1.0}, keyed())
    torch.testing.assert_close(solarized, TF.solarize(blurred, 0.5))


@pytest.mark.parametrize(
    "changed",
    [
        {"crop_scale": [0.9, 1.0]},
        {"crop_ratio": [1.0, 1.0]},
        {"flip": 0.9},
        {"jitter": 0.0},
        {"brightness": 0.0, "contrast": 0.1, "saturation": 0.0, "hue": 0.3},
        {"grayscale": 0.9},
        {"blur": 0.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_field_leaves_the_draws_of_the_others(changed, monkeypatch):
    """Every other operation is asked for with the same draws."""

    def draws(spec):
        logged = {}
        with monkeypatch.context() as patch:
            patch.setattr(
                augment,
                "color_jitter",
                lambda x, _, *given: logged.update(jitter=given) or x,
            )
            patch.setattr(augment, "gaussian_blur", lambda x, sigma: logged.update(blur=sigma) or x)
            # The choices of gray and solarize, in this order; a blur takes its images alone.
            patch.setattr(
                augment,
                "_where",
                lambda chosen, _, x: logged.setdefault("chosen", []).append(chosen) or x,
            )
            logged["crop"] = boxes(view(located(60, 28)[:, [0, 0, 0, 3, 4]], spec, keyed()))
            view(pictures(60), spec, keyed())
        return logged

    before, after = draws(LIVELY), draws(LIVELY | changed)
    field = next(iter(changed))
    if field not in ("crop_scale", "crop_ratio", "flip"):
        assert after["crop"] == before["crop"]
    elif field == "flip":
        assert [box[:4] for box in after["crop"]] == [box[:4] for box in before["crop"]]
    else:
        assert [box[4] for box in after["crop"]] == [box[4] for box in before["crop"]]
    if field != "jitter":
        assert all(map(torch.equal, before["jitter"], after["jitter"]))
    if field != "blur":
        assert torch.equal(before["blur"], after["blur"])
    same = 1 if field == "grayscale" else 2
    assert all(map(torch.equal, before["chosen"][-same:], after["chosen"][-same:]))


def test_view_depends_on_its_seed_alone():
    x = pictures()
    first = view(x, LIVELY, keyed(3))
    torch.manual_seed(1)
    torch.rand(5)
    assert torch.equal(view(x, LIVELY, keyed(3)), first)
    assert not torch.equal(view(x, LIVELY, keyed(4)), first)
    assert first.shape == x.shape
    assert float(first.min()) >= -1e-6
    assert float(first.max()) <= 1 + 1e-6


def test_view_of_an_image_does_not_depend_on_the_others():
    x, other = pictures(16), pictures(16, seed=1)
    other[::2] = x[::2]
    first, second = view(x, LIVELY, keyed()), view(other, LIVELY, keyed())
    torch.testing.assert_close(first[::2], second[::2])
    assert not torch.allclose(first[1::2], second[1::2])


@pytest.mark.parametrize("size", [0, 12])
def test_pixels_stay_on_their_device(size):
    """A tensor without storage passes: no draw and no choice looks at a pixel or leaves the CPU."""
    found = view(pictures().to("meta"), LIVELY | {"size": size}, keyed())
    assert found.device.type == "meta"
    assert found.shape == (8, 3, size or 28, size or 28)
