"""Random views of a whole batch at once, on the device where the images are.

Each operation follows torchvision's definition, with a draw of its own for every image. Random
numbers come from CPU generators keyed by seed, step and view, so views are the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

VERSION = 1
"""Raised whenever the same seed would give other views."""

OPTIONS = {
    "crop_scale": "range of 0 < float <= 1",
    "crop_ratio": "range of float > 0",
    "flip": "0 <= float <= 1",
    "jitter": "0 <= float <= 1",
    "brightness": "float >= 0",
    "contrast": "float >= 0",
    "saturation": "float >= 0",
    "hue": "0 <= float <= 0.5",
    "gray": "0 <= float <= 1",
    "blur": "0 <= float <= 1",
    "solarize": "0 <= float <= 1",
}
"""The fields of one view and what they may hold; probabilities unless torchvision names a factor."""


def view(images: Tensor, spec: dict[str, Any], generator: torch.Generator) -> Tensor:
    """One random view of each image (N, C, H, W), float in 0..1; same shape and range."""
    x = resized_crop(images, spec["crop_scale"], spec["crop_ratio"], spec["flip"], generator)
    n, channels = len(x), x.shape[1]

    def chance(probability: float) -> Tensor:
        return torch.rand(n, generator=generator) < probability

    # Every branch draws, whether its probability is zero or not, so that changing one field leaves
    # the draws of the others as they are.
    jittered, order = chance(spec["jitter"]), torch.rand(n, 4, generator=generator).argsort(1)
    factors = torch.rand(n, 4, generator=generator)
    grayed, blurred, solarized = (
        chance(spec["gray"]),
        chance(spec["blur"]),
        chance(spec["solarize"]),
    )
    sigma = 0.1 + 1.9 * torch.rand(n, generator=generator)
    strengths = [spec["brightness"], spec["contrast"], spec["saturation"], spec["hue"]]
    if spec["jitter"]:
        x = color_jitter(x, strengths, factors, order, jittered)
    if spec["gray"] and channels == 3:
        x = _where(grayed, _luma(x).expand_as(x), x)
    if spec["blur"]:
        x = _where(blurred, gaussian_blur(x, sigma), x)
    if spec["solarize"]:
        x = _where(solarized, torch.where(x >= 0.5, 1 - x, x), x)
    return x


def resized_crop(
    images: Tensor,
    scale: Sequence[float],
    ratio: Sequence[float],
    flip: float,
    generator: torch.Generator,
) -> Tensor:
    """RandomResizedCrop to the images' own size, bilinear, then a horizontal flip.

    Both axes are resampled by one matrix for each image: a crop, a resize and a mirror are linear
    and separable.
    """
    n, _, height, width = images.shape
    area = torch.empty(n, 10).uniform_(*scale, generator=generator) * height * width
    aspect = torch.empty(n, 10).uniform_(*map(math.log, ratio), generator=generator).exp()
    place = torch.rand(n, 2, generator=generator)
    mirror = torch.rand(n, generator=generator) < flip
    w = (area * aspect).sqrt().round()
    h = (area / aspect).sqrt().round()
    # torchvision tries ten times for a box that fits, then takes the whole image (for square images
    # and ratios around 1, its fallback).
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.float().argmax(1, keepdim=True)
    found = fits.any(1)
    w = torch.where(found, w.gather(1, first)[:, 0], torch.tensor(float(width)))
    h = torch.where(found, h.gather(1, first)[:, 0], torch.tensor(float(height)))
    top = (place[:, 0] * (height - h + 1)).floor()
    left = (place[:, 1] * (width - w + 1)).floor()
    rows = _resampling(top, h, height)
    columns = _resampling(left, w, width)
    columns = torch.where(mirror[:, None, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _resampling(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Matrices (N, size, size) that stretch `length` pixels from `start` over `size`, bilinearly."""
    position = (torch.arange(size) + 0.5) * (length / size)[:, None] - 0.5
    position = position.clamp(min=0).minimum((length - 1)[:, None]) + start[:, None]
    return (1 - (position[:, :, None] - torch.arange(size)).abs()).clamp(min=0)


def color_jitter(
    x: Tensor, strengths: Sequence[float], factors: Tensor, order: Tensor, applied: Tensor
) -> Tensor:
    """ColorJitter: brightness, contrast, saturation and hue, in an order of each image's own.

    `factors` (N, 4) in 0..1 are the draws, `order` (N, 4) permutations, `applied` (N,) bool. Grey
    images (one channel) have no saturation and no hue.
    """
    operations: list[Callable[[Tensor, Tensor], Tensor]] = [_brightness, _contrast]
    if x.shape[1] == 3:
        operations += [_saturation, _hue]
    for turn in range(4):
        for which, operation in enumerate(operations):
            strength = strengths[which]
            # The indices are known on the CPU: choosing them costs no wait for the device.
            index = torch.nonzero(applied & (order[:, turn] == which)).flatten()
            if not strength or not len(index):
                continue
            draw = factors[index, which]
            factor = (
                (2 * draw - 1) * strength
                if operation is _hue
                else max(0.0, 1 - strength) + draw * (1 + strength - max(0.0, 1 - strength))
            )
            index = index.to(x.device)
            changed = operation(x[index], factor.to(x)[:, None, None, None])
            x = x.index_copy(0, index, changed)
    return x


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _luma(x).mean((1, 2, 3), keepdim=True)
    return (factor * x + (1 - factor) * mean).clamp(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * _luma(x)).clamp(0, 1)


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue by `shift` (of a full circle), through HSV."""
    high, low = x.amax(1), x.amin(1)
    span = high - low
    safe = torch.where(span == 0, torch.ones_like(span), span)
    r, g, b = x.unbind(1)
    hue = torch.where(
        high == r, (g - b) / safe, torch.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    )
    hue = (hue + 6 * shift[:, 0]) % 6
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)
    k = (offsets + hue[:, None]) % 6
    return high[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each image with its own sigma (N,) in pixels, edges reflected."""
    radius = max(1, round(min(x.shape[2:]) * 0.05))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x.device)
    for axis in (2, 3):
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        windows = F.pad(x, pad, mode="reflect").unfold(axis, 2 * radius + 1, 1)
        x = (windows * kernel[:, None, None, None]).sum(-1)
    return x


def _luma(x: Tensor) -> Tensor:
    """Grey (N, 1, H, W) of RGB, with the weights of ITU-R 601; grey images as they are."""
    if x.shape[1] != 3:
        return x
    weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _where(chosen: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen.to(x.device)[:, None, None, None], changed, x)
