"""Random views of a whole batch at once, on the device where the images are.

Each operation follows torchvision's definition, with a draw of its own for every image. Random
numbers come from CPU generators keyed by seed, step and view, so views are the same on every device,
up to rounding. An accelerator gets them in one copy. Its operations have shapes that depend on no
draw, take any image, and do not wait for it; those of a CPU skip images that were not chosen.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.core.transfer import pack

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


BLUR_BYTES = 1 << 26
"""Most bytes of windows that a CPU blurs at a time."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch of views; the first dimension of each is the image's."""

    box: Tensor
    """(N, 4): top, left, height and width of the crop, whole pixels as float32."""
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

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors by name."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))


def views(
    images: Tensor,
    specs: Sequence[dict[str, Any]],
    generators: Sequence[torch.Generator],
    rows: Tensor | None = None,
    size: int | None = None,
) -> list[Tensor]:
    """Random views of each image, one for each spec, with a generator each.

    `images` (N, C, H, W), uint8 or float in 0..1; each view is float, (N, C, size, size) if its spec has
    a size. Bytes are rounded to bytes again by the crop, as by torchvision and Pillow. If the images are
    a part of a step's, `rows` (N,) are their numbers among its `size` images.
    """
    numbers = draw_views(size or len(images), images.shape[2:], specs, generators, rows)
    return make_views(images, specs, pack(numbers, images.device).to(images.device))


def draw_views(
    count: int,
    sides: Sequence[int],
    specs: Sequence[Mapping[str, Any]],
    generators: Sequence[torch.Generator],
    rows: Tensor | None = None,
) -> dict[str, Tensor]:
    """The random numbers of `views` by name, on the CPU, for `count` images of `sides` (H, W).

    With `rows` (N,), those of these images alone.
    """
    numbers: dict[str, Tensor] = {}
    first = 0
    for spec, run in _runs(specs):
        given = generators[first : first + run]
        drawn = [dict(draw(count, spec, generator, sides).items()) for generator in given]
        for name in drawn[0]:
            own = [one[name] if rows is None else one[name][rows] for one in drawn]
            numbers[f"view {first} {name}"] = torch.cat(own)
        first += run
    return numbers


def make_views(
    images: Tensor, specs: Sequence[Mapping[str, Any]], numbers: Mapping[str, Tensor]
) -> list[Tensor]:
    """The views with the numbers of `draw_views`, which are on the images' device.

    Neighbours of one spec are made together, which gives the same bits as one after another in fewer
    and larger operations.
    """
    made: list[Tensor] = []
    for spec, run in _runs(specs):
        names = [field.name for field in fields(Draws)]
        draws = Draws(**{name: numbers[f"view {len(made)} {name}"] for name in names})
        made += apply(images, spec, draws).chunk(run)
    return made


def _runs(specs: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """Neighbours of one spec, and how many they are."""
    runs = itertools.groupby(map(complete, specs))
    return [(spec, len(list(run))) for spec, run in runs]


def view(images: Tensor, spec: dict[str, Any], generator: torch.Generator) -> Tensor:
    """One random view of each image (N, C, H, W); see `views`."""
    return views(images, [spec], [generator])[0]


def pixels_for(specs: Sequence[Mapping[str, Any]], images: Tensor) -> Tensor:
    """What `views` is given of uint8 images: these, or floats in 0..1 for views of the images' own size.

    Views of a track with an `image_size` are cropped from larger images, in bytes, which is faster and
    is what the papers' programs do. Others keep the bits that they had before there were such tracks.
    """
    return images if specs[0].get("size") else images.float() / 255


def draw(
    n: int, spec: Mapping[str, Any], generator: torch.Generator, sides: Sequence[int]
) -> Draws:
    """The random numbers of `n` views of images of `sides` (H, W).

    All are drawn, used or not, so that a change of one field leaves the draws of the others unchanged.
    """

    def chance(probability: float) -> Tensor:
        return torch.rand(n, generator=generator) < probability

    ratio = map(math.log, spec["crop_ratio"])
    # In the order in which version 1 drew them.
    return Draws(
        box=_boxes(
            torch.empty(n, 10).uniform_(*spec["crop_scale"], generator=generator),
            torch.empty(n, 10).uniform_(*ratio, generator=generator).exp(),
            torch.rand(n, 2, generator=generator),
            *sides,
        ),
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
    on_cpu = x.device.type == "cpu"
    strengths = [spec["brightness"], spec["contrast"], spec["saturation"], spec["hue"]]
    if spec["jitter"]:
        jitter = color_jitter if on_cpu else jitter_all
        x = jitter(x, strengths, draws.factors, draws.order, draws.jittered)
    if spec["grayscale"] and x.shape[1] == 3:
        x = _where(draws.grayed, luma(x).expand_as(x), x)
    if spec["blur"]:
        if on_cpu:
            index = draws.blurred.nonzero().flatten()
            x[index] = gaussian_blur(x[index], draws.sigma[index])
        else:
            x = _where(draws.blurred, blur_all(x, draws.sigma), x)
    if spec["solarize"]:
        x = _where(draws.solarized, torch.where(x >= 0.5, 1 - x, x), x)
    return x


def _boxes(area: Tensor, aspect: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """RandomResizedCrop's box (N, 4) from ten shares and ratios (N, 10) and a place (N, 2).

    torchvision tries ten times for a box that fits, then takes the whole image (for square images and
    ratios around 1, its fallback).
    """
    area = area * height * width
    w = (area * aspect).sqrt().round()
    h = (area / aspect).sqrt().round()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.float().argmax(1, keepdim=True)
    found = fits.any(1)
    w = torch.where(found, w.gather(1, first)[:, 0], torch.tensor(float(width)))
    h = torch.where(found, h.gather(1, first)[:, 0], torch.tensor(float(height)))
    top = (place[:, 0] * (height - h + 1)).floor()
    left = (place[:, 1] * (width - w + 1)).floor()
    return torch.stack([top, left, h, w], 1)


def resized_crop(images: Tensor, draws: Draws, size: int = 0) -> Tensor:
    """RandomResizedCrop to a square of side `size`, bilinear and antialiased, then a horizontal flip.

    With a `size` of 0 it is to the images' own size, to which no crop shrinks. Both axes are resampled
    by one matrix for each image: a crop, a resize and a mirror are linear and separable.
    """
    count, _, height, width = images.shape
    rounded = images.dtype == torch.uint8
    if rounded and images.device.type == "cpu":
        boxes = draws.box.long().tolist()
        return _crop_bytes(images, boxes, draws.mirrored.tolist(), (size or height, size or width))
    if rounded:
        images = images.float()
    top, left, h, w = draws.box.unbind(1)
    rows = _resampling(top, h, height, size or height)
    columns = _resampling(left, w, width, size or width)
    columns = torch.where(draws.mirrored[:, None, None], columns.flip(1), columns)
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
    pixels = torch.arange(size, dtype=torch.float32, device=start.device)
    scale = (length / out)[:, None]
    position = (torch.arange(out, dtype=torch.float32, device=start.device) + 0.5) * scale - 0.5
    position = position.clamp(min=0).minimum((length - 1)[:, None]) + start[:, None]
    distance = (position[:, :, None] - pixels).abs_()
    if out >= size:
        return distance.neg_().add_(1).clamp_(min=0)
    weight = distance.div_(scale.clamp(min=1)[:, :, None]).neg_().add_(1).clamp_(min=0)
    weight *= ((pixels >= start[:, None]) & (pixels < (start + length)[:, None]))[:, None]
    return weight / weight.sum(2, keepdim=True)


CONTRAST, SATURATION, HUE = 1, 2, 3
"""The jitter's operations by their place in `strengths` and `factors`; 0 is the brightness."""


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
            index = torch.nonzero(applied & (turns[:, which] == turn)).flatten()
            if not strength or not len(index):
                continue
            factor = _amount(which, factors[index, which], strength)
            x[index] = operation(x[index], factor[:, None, None, None])
    return x


def _amount(which: int, number: Tensor, strength: float) -> Tensor:
    """torchvision's random factor of an operation, the shift of the hue, from numbers in 0..1."""
    if which == HUE:
        return (2 * number - 1) * strength
    least = max(0.0, 1 - strength)
    return least + number * (1 + strength - least)


def jitter_all(
    x: Tensor, strengths: Sequence[float], factors: Tensor, order: Tensor, applied: Tensor
) -> Tensor:
    """As `color_jitter`, without lists of images: each operation takes all of them.

    Brightness, contrast and saturation are blends with black, with the mean grey and with the grey
    image. So the next blend of each image is one operation, whichever of them it is, and the hue, which
    costs most, is turned once: after the blends that come before it.
    """
    amounts = [_amount(which, factors[:, which], given) for which, given in enumerate(strengths)]
    amount = torch.stack(amounts, 1).to(x)
    hue_turn = (order == HUE).int().argmax(1)

    def blended(turn: int, wanted: Tensor) -> Tensor:
        which = order[:, turn, None]
        # A blend with a factor of 1 changes nothing.
        factor = amount.gather(1, which).where((applied & wanted)[:, None], 1.0)
        grey = luma(x)
        mean = grey.mean((1, 2, 3), keepdim=True)
        which, factor = which[:, :, None, None], factor[:, :, None, None]
        other = grey.where(which == SATURATION, mean.where(which == CONTRAST, 0.0))
        return other.lerp(x, factor).clamp_(0, 1)

    for turn in range(3):
        x = blended(turn, turn < hue_turn)
    if strengths[HUE] and x.shape[1] == 3:
        x = _where(applied, _hue(x, amount[:, HUE, None, None, None]), x)
    for turn in range(1, 4):
        x = blended(turn, turn > hue_turn)
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
    offsets = _by_channel((5.0, 3.0, 1.0), x.device)
    k = (offsets + hue[:, None]) % 6
    return high[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each image with its own sigma (N,) in pixels, edges reflected."""
    radius, kernel = _kernel(x, sigma)
    each = math.prod(x.shape[1:]) * kernel.shape[1] * x.element_size()
    part = max(1, BLUR_BYTES // each)
    blurred = []
    for images, weights in zip(x.split(part), kernel.split(part), strict=True):
        for axis in (2, 3):
            windows = _reflected(images, axis, radius).unfold(axis, 2 * radius + 1, 1)
            images = (windows * weights[:, None, None, None]).sum(-1)
        blurred.append(images)
    return torch.cat(blurred)


def blur_all(x: Tensor, sigma: Tensor) -> Tensor:
    """As `gaussian_blur`, as a sum of shifted images: a few launches in the memory of three batches."""
    radius, kernel = _kernel(x, sigma)
    for axis in (2, 3):
        padded, side = _reflected(x, axis, radius), x.shape[axis]
        x = torch.zeros_like(x)
        for shift, weight in enumerate(kernel[:, :, None, None, None].unbind(1)):
            x.addcmul_(padded.narrow(axis, shift, side), weight)
    return x


def _kernel(x: Tensor, sigma: Tensor) -> tuple[int, Tensor]:
    """The radius in pixels, and the weights (N, 2 · radius + 1) of each image's pixels along an axis."""
    radius = max(1, round(min(x.shape[2:]) * 0.05))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=sigma.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    return radius, kernel / kernel.sum(1, keepdim=True)


def _reflected(x: Tensor, axis: int, radius: int) -> Tensor:
    pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
    return F.pad(x, pad, mode="reflect")


def luma(x: Tensor) -> Tensor:
    """Grey (N, 1, H, W) of RGB, with the weights of ITU-R 601; grey images as they are."""
    if x.shape[1] != 3:
        return x
    return (x * _by_channel((0.2989, 0.587, 0.114), x.device)).sum(1, keepdim=True)


@functools.cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Constants (1, C, 1, 1), made once: a copy of Python's numbers waits for the device."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _where(chosen: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], changed, x)
