"""Views of 224 pixels from images of 256 are torchvision's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from benchmark.data.augment import Draws, apply, complete, draw, pixels_for, resized_crop, views
from benchmark.data.standardise import centre_crop

SPEC = {
    "crop_scale": (0.08, 1.0),
    "crop_ratio": (0.75, 4 / 3),
    "flip": 0.5,
    "jitter": 0.0,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grayscale": 0.0,
}


SIDES = 256, 256


def photographs(count: int, channels: int = 3, side: int = 256) -> Tensor:
    """Smooth images with sharp edges, uint8."""
    dice = torch.Generator().manual_seed(count + channels)
    coarse = torch.rand(count, channels, 12, 12, generator=dice)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    edges = (torch.rand(count, channels, side // 8, side // 8, generator=dice) < 0.2).float()
    edges = torch.nn.functional.interpolate(edges, (side, side), mode="nearest")
    return ((smooth + 0.4 * edges).clamp(0, 1) * 255).round().byte()


def boxes(draws: Draws) -> list[list[int]]:
    """Top, left, height and width of each crop."""
    return draws.box.int().tolist()


@pytest.mark.parametrize("size", [224, 96, 256, 300])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_bytes_are_torchvisions(size: int, channels: int) -> None:
    """Up and down: boxes have from 72 to 256 pixels."""
    images, generator = photographs(24, channels), torch.Generator().manual_seed(0)
    draws = draw(24, complete(SPEC), generator, SIDES)
    found = resized_crop(images, draws, size)
    for image, view, box, mirrored in zip(images, found, boxes(draws), draws.mirrored, strict=True):
        expected = F.resized_crop(image, *box, [size, size], antialias=True)
        if mirrored:
            expected = F.horizontal_flip(expected)
        gap = (view * 255 - expected.float()).abs()
        assert gap.mean() < 0.02
        assert gap.max() <= 1 + 1e-4


@pytest.mark.parametrize("size", [224, 96, 256])
def test_accelerators_crop_as_cpus_do(size: int) -> None:
    """They multiply matrices, here on the CPU. The kernel rounds to bytes after each axis."""
    images, generator = photographs(24), torch.Generator().manual_seed(1)
    draws = draw(24, complete(SPEC), generator, SIDES)
    by_kernel = resized_crop(images, draws, size)
    by_matrices = resized_crop(images.float(), draws, size).round() / 255
    gap = (by_kernel - by_matrices).abs() * 255
    assert gap.mean() < 0.25
    assert gap.max() <= 1 + 1e-4


def test_crops_have_torchvisions_distribution() -> None:
    count = 4000
    spec = complete(SPEC)
    own = np.array(boxes(draw(count, spec, torch.Generator().manual_seed(2), SIDES)), dtype=float)
    image = torch.zeros(3, 256, 256, dtype=torch.uint8)
    torch.manual_seed(2)
    transform = v2.RandomResizedCrop(224, SPEC["crop_scale"], SPEC["crop_ratio"])
    drawn = (transform.make_params([image]) for _ in range(count))
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in drawn], dtype=float)

    def features(found: np.ndarray) -> dict[str, np.ndarray]:
        top, left, height, width = found.T
        return {
            "area": height * width,
            "aspect": np.log(width / height),
            "row": (top + 0.5) / (257 - height),
            "column": (left + 0.5) / (257 - width),
        }

    other = features(theirs)
    for name, values in features(own).items():
        assert ks_2samp(values, other[name]).pvalue > 0.001, name
    # A wrong range would be found.
    narrow = complete({**SPEC, "crop_scale": (0.12, 1.0)})
    wrong = np.array(boxes(draw(count, narrow, torch.Generator().manual_seed(2), SIDES)))
    assert ks_2samp(features(wrong.astype(float))["area"], other["area"]).pvalue < 0.001


def test_whole_views_are_torchvisions_operations() -> None:
    """Blur, grey and solarization of a crop of 224 pixels; the jitter has tests of its own."""
    spec = complete({**SPEC, "blur": 1.0, "grayscale": 1.0, "solarize": 1.0, "size": 224})
    images, generator = photographs(8), torch.Generator().manual_seed(3)
    draws = draw(8, spec, generator, SIDES)
    made = apply(images, spec, draws)
    assert made.shape == (8, 3, 224, 224)
    for image, view, box, mirrored, sigma in zip(
        images, made, boxes(draws), draws.mirrored, draws.sigma.tolist(), strict=True
    ):
        crop = F.resized_crop(image, *box, [224, 224], antialias=True)
        crop = F.horizontal_flip(crop) if mirrored else crop
        grey = F.rgb_to_grayscale(crop.float() / 255, 3)
        kernel = 2 * max(1, round(224 * 0.05)) + 1
        expected = F.solarize(F.gaussian_blur(grey, [kernel, kernel], [sigma, sigma]), 0.5)
        assert (view - expected).abs().mean() < 1 / 255


def test_two_views_of_bytes_are_made_one_after_another_or_together() -> None:
    images = photographs(6)
    specs: list[dict[str, Any]] = [
        {**SPEC, "size": 224},
        {**SPEC, "size": 224},
        {**SPEC, "size": 96},
    ]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    together = views(images, specs, generators())
    for spec, generator, view in zip(specs, generators(), together, strict=True):
        assert torch.equal(views(images, [spec], [generator])[0], view)
        assert view.dtype == torch.float32
        assert 0 <= float(view.min()) <= float(view.max()) <= 1


def test_views_of_the_images_own_size_start_from_floats() -> None:
    images = photographs(2, side=32)
    assert pixels_for([SPEC], images).dtype == torch.float32
    assert pixels_for([{**SPEC, "size": 24}], images) is images


@pytest.mark.parametrize("side", [256, 255, 97])
@pytest.mark.parametrize("size", [224, 96, 97])
def test_centre_crops_are_torchvisions(side: int, size: int) -> None:
    if size > side:
        return
    images = photographs(2, side=side)
    assert torch.equal(centre_crop(images, size), F.center_crop(images, [size, size]))
