"""Checks of the numbers that limit each other: batch sizes, options and the count of images.

Needs no torch, so that `plan` refuses what `train` would refuse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from benchmark.components import registry
from benchmark.config.schema import Params
from benchmark.core.errors import ParamsError, UserError
from benchmark.data.manifest import Manifest
from benchmark.planning.cell import Cell
from benchmark.planning.configuration import Configuration
from benchmark.planning.images import built


def check_cells(root: Path, params: Params, cells: Sequence[Cell]) -> None:
    """Raises ParamsError for the first cell whose numbers do not fit; see `check`.

    Nothing is compared with the number of training images while it is not known, see
    `training_images`, nor with the size of the images or their classes before they are built.
    """
    images, manifest = training_images(root, params), _manifest(root, params)
    side = min(manifest.shape[1:]) if manifest else None
    classes = len(manifest.classes) if manifest else None
    for cell in cells:
        check(cell.config, images, side, classes)


def training_images(root: Path, params: Params) -> int | None:
    """The number of training images: of the params or, where these give a share, of the built images.

    None where the params give a share and the images have not been built.
    """
    images = params.data.splits.train
    if isinstance(images, int):
        return images
    manifest = _manifest(root, params)
    return manifest.splits["train"].count if manifest else None


def _manifest(root: Path, params: Params) -> Manifest | None:
    """The manifest of the built images; None if they have not been built."""
    try:
        return built(root, params)
    except UserError:
        return None


def check(
    config: Configuration,
    images: int | None,
    side: int | None = None,
    classes: int | None = None,
) -> None:
    """Raises ParamsError if a size or an option does not fit the others or the training images.

    `images` is the number of training images, `side` their shorter side in pixels and `classes` the
    number of their classes; None if not known.
    """
    batch = config.training.batch_size if config.training else 0
    if images is not None and batch > images:
        raise ParamsError(
            f"training: batch_size {batch} is larger than the training split of {images} images"
        )
    calibration = config.evaluation.precise_bn_batch_size
    if images is not None and calibration > images:
        raise ParamsError(
            f"evaluation: precise_bn_batch_size {calibration} is larger than the training split of "
            f"{images} images"
        )
    for share in config.evaluation.few_labels:
        if images is not None and classes is not None and exact(share) * images < classes:
            raise ParamsError(
                f"evaluation: few_labels has {share:g}, expected at least {classes}/{images}: one "
                f"training image for each of the {classes} classes"
            )
    name = config.method.name
    facts = registry.facts("method", name)
    options = registry.complete("method", name, config.method.options)
    for option, share in facts.get("largest_share", {}).items():
        if images is not None and options[option] > int(share * images):
            raise ParamsError(
                f"method {name}: {option} is {options[option]}, expected at most "
                f"{int(share * images)}: {share:g} of the {images} training images"
            )
    if config.training is None:
        return
    for size in config.training.sizes:
        if side is not None and size > side:
            raise ParamsError(f"views: size is {size}, expected at most the images' {side} pixels")
    for option, doubling in facts.get("multiple_of_batch", {}).items():
        factor = 2 ** sum(options[other] for other in doubling)
        if options[option] % (factor * batch):
            times = f" × {factor}" if factor > 1 else ""
            raise ParamsError(
                f"method {name}: {option} is {options[option]}, expected a multiple of the batch size "
                f"{batch}{times}"
            )
    for section, norm in config.each_norm():
        options = registry.complete("norm", norm.norm, norm.options)
        for option in registry.facts("norm", norm.norm).get("divides_batch", ()):
            if batch % options[option]:
                raise ParamsError(
                    f"norm {norm.norm} in the {section}: {option} is {options[option]}, expected a "
                    f"number that divides the batch size {batch}"
                )
    if config.recipe.micro_batches > 1:
        _check_micro_batches(config)


def exact(share: float) -> Fraction:
    """A share by its decimal digits: .1 is a tenth, not the nearest binary number."""
    return Fraction(str(share))


def _check_micro_batches(config: Configuration) -> None:
    """Raises ParamsError if a step in micro-batches would not be the step of the whole batch."""
    recipe, name = config.recipe, config.method.name
    count = recipe.micro_batches
    if recipe.batch_size % count:
        raise ParamsError(
            f"training: micro_batches is {count}, expected a number that divides the batch size "
            f"{recipe.batch_size}"
        )
    refused = f"micro_batches is {count}, expected 1"
    facts = registry.facts("method", name)
    options = registry.complete("method", name, config.method.options)
    if not facts.get("per_sample_loss"):
        raise ParamsError(f"method {name}: {refused}: its loss needs the whole batch at once")
    for option, values in facts.get("whole_batch_loss", {}).items():
        if options[option] in values:
            raise ParamsError(
                f"method {name}: {refused}: with {option} {options[option]}, its loss needs the whole "
                "batch at once"
            )
    # What a forward pass has of each image: views one after another, repeats as neighbours.
    repeats = {
        "contiguous": facts["views"] if recipe.view_batching == "joint" else 1,
        "strided": math.prod(options[option] for option in facts.get("repeats", ())),
    }
    assignments = set()
    for section, norm in config.each_norm():
        known, where = registry.facts("norm", norm.norm), f"norm {norm.norm} in the {section}"
        if not known["batch_dependent"]:
            continue
        if not known.get("sample_groups"):
            raise ParamsError(f"{where}: {refused}: its statistics need the whole batch at once")
        if len(recipe.views) > facts["views"]:
            raise ParamsError(f"{where}: {refused}: its groups are of views of several sizes")
        given = registry.complete("norm", norm.norm, norm.options)
        assignments.add(given["assignment"])
        times = repeats[given["assignment"]]
        if given["groups"] % (count * times):
            raise ParamsError(
                f"{where}: groups is {given['groups']}, expected a multiple of the micro_batches {count}"
                + (f" × {times} ({given['assignment']} groups)" if times > 1 else "")
            )
    if len(assignments) > 1:
        raise ParamsError(
            f"training: {refused}: contiguous and strided groups cannot be divided in the same way"
        )
