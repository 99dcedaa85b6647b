"""Random views of a whole batch at once, on the device where the images are.

Each operation follows torchvision's definition, with a draw of its own for every image. Random
numbers come from CPU generators keyed by seed, step and view, so views are the same on every device.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

VERSION = 1
"""Raised if the same seed gives other views."""

OPTIONS = {
    "crop_scale": "range of 0 < float <= 1",
    "crop_ratio": "range of float > 0",
    "flip": "0 <= float <= 1",
    "jitter": "0 <= float <= 1",
    "brightness": "float >= 0",
    "contrast": "float >= 0",
    "saturation": "float >= 0",
    "hue": "0 <= float <= 0.5",
    "grayscale": "0 <= float <= 1",
    "blur": "0 <= float <= 1",
    "solarize": "0 <= float <= 1",
    "size": "int >= 0",
}
"""The fields of one view and what they may hold; probabilities unless torchvision names a factor.

`size` is the side of the square view in pixels; 0: the height and width of the image."""

DEFAULTS = {"blur": 0.0, "solarize": 0.0, "size": 0}
"""Values of fields that may be missing. A cell's configuration leaves them out, see `complete`."""


def complete(spec: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a view, with the defaults of those that a cell's configuration leaves out."""
    return DEFAULTS | dict(spec)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch of views, on the CPU; the first dimension of each is the image's."""

    area: Tensor
    """(N, 10), shares of the image."""
    aspect: Tensor
    """(N, 10), width / height."""
    place: Tensor
    """(N, 2), position of the crop in 0..1."""
    mirrored: Tensor
    """(N,) bool, as are the other choices."""
    jittered: Tensor
    order: Tensor
    """(N, 4), permutations: the order of the jitter's four operations."""
    factors: Tensor
    """(N, 4), by operation, in 0..1."""
    grayed: Tensor
    blurred: Tensor
    solarized: Tensor
    sigma: Tensor
    """(N,), pixels."""


def views(
    images: Tensor,
    specs: Sequence[dict[str, Any]],
    generators: Sequence[torch.Generator],
    rows: Tensor | None = None,
    size: int | None = None,
) -> list[Tensor]:
    """Random views of each image, one for each spec, with a generator each.

    `images` (N, C, H, W), uint8 or float in 0..1; each view is float, (N, C, size, size) if its spec has
    a size. Bytes are rounded to bytes again by the crop, as by torchvision and Pillow.
    `rows` (N,) are the numbers of the images among the `size` images of a step, for all of which numbers
    are drawn; by default they are all of it.
    Neighbours of one spec are made together, which gives the same bits as one after another in fewer
    and larger operations.
    """
    pairs = zip(map(complete, specs), generators, strict=True)
    made: list[Tensor] = []
    for spec, run in itertools.groupby(pairs, operator.itemgetter(0)):
        drawn = [draw(size or len(images), spec, generator) for _, generator in run]
        names = [field.name for field in fields(Draws)]
        columns = {name: [getattr(one, name) for one in drawn] for name in names}
        if rows is not None:
            columns = {name: [one[rows] for one in column] for name, column in columns.items()}
        together = Draws(**{name: torch.cat(column) for name, column in columns.items()})
        made += apply(images, spec, together).split(len(images))
    return made


def view(images: Tensor, spec: dict[str, Any], generator: torch.Generator) -> Tensor:
    """One random view of each image (N, C, H, W); see `views`."""
    spec = complete(spec)
    return apply(images, spec, draw(len(images), spec, generator))


def pixels_for(specs: Sequence[Mapping[str, Any]], images: Tensor) -> Tensor:
    """What `views` is given of uint8 images: these, or floats in 0..1 for views of the images' own size.

    Views of a track with an `image_size` are cropped from larger images, in bytes, which is faster and
    is what the papers' programs do. Others keep the bits that they had before there were such tracks.
    """
    return images if specs[0].get("size") else images.float() / 255


def draw(n: int, spec: dict[str, Any], generator: torch.Generator) -> Draws:
    """The random numbers of `n` views.

    All are drawn, used or not, so that a change of one field leaves the draws of the others unchanged.
    """

    def chance(probability: float) -> Tensor:
        return torch.rand(n, generator=generator) < probability

    ratio = map(math.log, spec["crop_ratio"])
    # In the order in which version 1 drew them.
    return Draws(
        area=torch.empty(n, 10).uniform_(*spec["crop_scale"], generator=generator),
        aspect=torch.empty(n, 10).uniform_(*ratio, generator=generator).exp(),
        place=torch.rand(n, 2, generator=generator),
        mirrored=chance(spec["flip"]),
        jittered=chance(spec["jitter"]),
        order=torch.rand(n, 4, generator=generator).argsort(1),
        factors=torch.rand(n, 4, generator=generator),
        grayed=chance(spec["grayscale"]),
        blurred=chance(spec["blur"]),
        solarized=chance(spec["solarize"]),
        sigma=0.1 + 1.9 * torch.rand(n, generator=generator),
    )


def apply(images: Tensor, spec: dict[str, Any], draws: Draws) -> Tensor:
    """The views with the given draws: k · N of N images, all images once for every N draws."""
    x = resized_crop(images, draws, spec["size"])
    strengths = [spec["brightness"], spec["contrast"], spec["saturation"], spec["hue"]]
    if spec["jitter"]:
        x = color_jitter(x, strengths, draws.factors, draws.order, draws.jittered)
    if spec["grayscale"] and x.shape[1] == 3:
        x = _where(draws.grayed, luma(x).expand_as(x), x)
    if spec["blur"]:
        x = _where(draws.blurred, gaussian_blur(x, draws.sigma), x)
    if spec["solarize"]:
        x = _where(draws.solarized, torch.where(x >= 0.5, 1 - x, x), x)
    return x


def resized_crop(images: Tensor, draws: Draws, size: int = 0) -> Tensor:
    """RandomResizedCrop to a square of side `size`, bilinear and antialiased, then a horizontal flip.

    With a `size` of 0 it is to the images' own size, to which no crop shrinks. Both axes are resampled
    by one matrix for each image: a crop, a resize and a mirror are linear and separable.
    """
    count, _, height, width = images.shape
    area = draws.area * height * width
    w = (area * draws.aspect).sqrt().round()
    h = (area / draws.aspect).sqrt().round()
    # torchvision tries ten times for a box that fits, then takes the whole image (for square images
    # and ratios around 1, its fallback).
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.float().argmax(1, keepdim=True)
    found = fits.any(1)
    w = torch.where(found, w.gather(1, first)[:, 0], torch.tensor(float(width)))
    h = torch.where(found, h.gather(1, first)[:, 0], torch.tensor(float(height)))
    top = (draws.place[:, 0] * (height - h + 1)).floor()
    left = (draws.place[:, 1] * (width - w + 1)).floor()
    if images.dtype == torch.uint8 and images.device.type == "cpu":
        boxes = torch.stack([top, left, h, w], 1).long().tolist()
        return _crop_bytes(images, boxes, draws.mirrored.tolist(), (size or height, size or width))
    rounded = images.dtype == torch.uint8
    if rounded:
        images = images.float()
    rows = _resampling(top, h, height, size or height)
    columns = _resampling(left, w, width, size or width)
    columns = torch.where(draws.mirrored[:, None, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    if len(rows) > count:
        images = images.repeat(len(rows) // count, 1, 1, 1)
    found = rows[:, None] @ images @ columns[:, None].transpose(2, 3)
    return found.round_().div_(255) if rounded else found


def _crop_bytes(
    images: Tensor,
    boxes: Sequence[tuple[int, int, int, int]],
    mirrored: Sequence[bool],
    size: tuple[int, int],
) -> Tensor:
    """Crops of uint8 images, resized and mirrored, in 0..1; boxes are top, left, height and width.

    One after another with the kernel that torchvision uses, which on a CPU is about twenty times as
    fast as the products of matrices. It may differ from them by one byte: its weights have 16 bits.
    """
    count = len(images)
    # Channels last is the layout that the kernel and the networks are written for.
    last = torch.channels_last
    made = torch.empty((len(boxes), images.shape[1], *size), dtype=torch.uint8, memory_format=last)
    for number, ((top, left, height, width), mirror) in enumerate(
        zip(boxes, mirrored, strict=True)
    ):
        box = images[number % count, None, :, top : top + height, left : left + width]
        box = box.contiguous(memory_format=last)
        crop = F.interpolate(box, size, mode="bilinear", antialias=True)
        made[number] = crop[0].flip(2) if mirror else crop[0]
    return made.float().div_(255)


def _resampling(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """Matrices (N, out, size) that resample `length` of `size` pixels from `start` on to `out` pixels.

    Bilinearly, and where pixels shrink with a triangle that is wider by the same factor, as torchvision
    with `antialias=True`.
    """
    pixels = torch.arange(size, dtype=torch.float32)
    scale = (length / out)[:, None]
    position = (torch.arange(out, dtype=torch.float32) + 0.5) * scale - 0.5
    position = position.clamp(min=0).minimum((length - 1)[:, None]) + start[:, None]
    distance = (position[:, :, None] - pixels).abs_()
    if out >= size:
        return distance.neg_().add_(1).clamp_(min=0)
    weight = distance.div_(scale.clamp(min=1)[:, :, None]).neg_().add_(1).clamp_(min=0)
    weight *= ((pixels >= start[:, None]) & (pixels < (start + length)[:, None]))[:, None]
    return weight / weight.sum(2, keepdim=True)


def color_jitter(
    x: Tensor, strengths: Sequence[float], factors: Tensor, order: Tensor, applied: Tensor
) -> Tensor:
    """ColorJitter: brightness, contrast, saturation and hue, in an order of each image's own.

    `factors` (N, 4) in 0..1 are the draws, `order` (N, 4) permutations, `applied` (N,) bool. Grey
    images (one channel) have no saturation and no hue.
    """
    x = x.clone()
    operations: list[Callable[[Tensor, Tensor], Tensor]] = [_brightness, _contrast]
    turns = order.argsort(1)  # by operation
    if x.shape[1] == 3:
        operations += [_saturation, _hue]
    else:
        # Of two operations, only the order matters.
        turns = (turns[:, :2] > turns[:, :2].flip(1)).long()
    for turn in range(len(operations)):
        for which, operation in enumerate(operations):
            strength = strengths[which]
            # The indices are known on the CPU, so choosing them does not wait for the device.
            index = torch.nonzero(applied & (turns[:, which] == turn)).flatten()
            if not strength or not len(index):
                continue
            number = factors[index, which]
            factor = (
                (2 * number - 1) * strength
                if operation is _hue
                else max(0.0, 1 - strength) + number * (1 + strength - max(0.0, 1 - strength))
            )
            index = index.to(x.device)
            changed = operation(x[index], factor.to(x)[:, None, None, None])
            x[index] = changed
    return x


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp(0, 1)


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = luma(x).mean((1, 2, 3), keepdim=True)
    return (factor * x + (1 - factor) * mean).clamp(0, 1)


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * luma(x)).clamp(0, 1)


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


def luma(x: Tensor) -> Tensor:
    """Grey (N, 1, H, W) of RGB, with the weights of ITU-R 601; grey images as they are."""
    if x.shape[1] != 3:
        return x
    weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _where(chosen: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen.to(x.device)[:, None, None, None], changed, x)
