"""Checks of the numbers that limit each other: batch sizes, options and the count of images.

Needs no torch, so that `plan` refuses what `train` would refuse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmark.components import registry
from benchmark.config.schema import Params
from benchmark.core.errors import ParamsError, UserError
from benchmark.core.shares import exact
from benchmark.data.manifest import UNLABELLED, Manifest
from benchmark.planning.cell import Cell
from benchmark.planning.configuration import (
    Configuration,
    FinetuneConfig,
    NormConfig,
    PartConfig,
)
from benchmark.planning.images import built


def check_cells(root: Path, params: Params, cells: Sequence[Cell]) -> None:
    """Raises ParamsError for the first cell whose numbers do not fit; see `check`.

    Nothing is compared with the number of training images while it is not known, see
    `training_images`, nor with the size of the images or their classes before they are built.
    """
    manifest = _manifest(root, params)
    side = min(manifest.shape[1:]) if manifest else None
    images, unlabelled = (_count(params, manifest, name) for name in ("train", UNLABELLED))
    classes = len(manifest.classes) if manifest else None
    for cell in cells:
        check(cell.config, images, side, classes, unlabelled)


def training_images(root: Path, params: Params) -> int | None:
    """The number of images of the training split, in which kNN looks for neighbours.

    Of the params or, where these give a share, of the built images. None where the params give a share
    and the images have not been built.
    """
    counted = isinstance(params.data.splits.train, int)
    return _count(params, None if counted else _manifest(root, params), "train")


def _count(params: Params, manifest: Manifest | None, split: str) -> int | None:
    """The number of images in a split; None if the params give a share and nothing is built."""
    asked = getattr(params.data.splits, split)
    if asked is None:
        return 0
    if isinstance(asked, int):
        return int(asked)
    return manifest.splits[split].count if manifest else None


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
    unlabelled: int | None = 0,
) -> None:
    """Raises ParamsError if a size or an option does not fit the others or the training images.

    `images` and `unlabelled` are the numbers of training images with and without labels, `side` their
    shorter side in pixels and `classes` the number of their classes; None if not known.
    """
    facts = registry.facts("method", config.method.name)
    trained = images if facts.get("labels") else None
    if not facts.get("labels") and images is not None and unlabelled is not None:
        trained = images + unlabelled
    batch = config.training.batch_size if config.training else 0
    if trained is not None and batch > trained:
        raise ParamsError(
            f"training: batch_size {batch} is larger than the training split of {trained} images"
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
    options = registry.complete("method", name, config.method.options)
    for option, share in facts.get("largest_share", {}).items():
        if trained is not None and options[option] > int(share * trained):
            raise ParamsError(
                f"method {name}: {option} is {options[option]}, expected at most "
                f"{int(share * trained)}: {share:g} of the {trained} training images"
            )
    seen = config.image_size
    if seen is not None and side is not None and seen > side:
        raise ParamsError(f"image_size is {seen}, expected at most the images' {side} pixels")
    if config.evaluation.finetune:
        _check_finetune(config, config.evaluation.finetune, images)
    if config.training is None:
        return
    for size in config.training.sizes:
        if seen is not None and size > seen:
            raise ParamsError(f"views: size is {size}, expected at most the image_size {seen}")
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
    _check_groups(config.each_norm(), f"the batch size {batch}", batch)
    if config.recipe.micro_batches > 1:
        _check_micro_batches(config)


def _check_groups(
    norms: Iterable[tuple[str, NormConfig | PartConfig]], named: str, batch: int
) -> None:
    """Raises ParamsError if a norm divides batches in groups, and this one cannot be divided."""
    for section, norm in norms:
        options = registry.complete("norm", norm.norm, norm.options)
        for option in registry.facts("norm", norm.norm).get("divides_batch", ()):
            if batch % options[option]:
                raise ParamsError(
                    f"norm {norm.norm} in the {section}: {option} is {options[option]}, expected a "
                    f"number that divides {named}"
                )


def _check_finetune(config: Configuration, tuned: FinetuneConfig, images: int | None) -> None:
    """Raises ParamsError if the images, or a part of them, or a norm do not fit the batch."""
    batch, where = tuned.batch_size, "evaluation.finetune: batch_size"
    if images is not None:
        for share in (1.0, *(few.share for few in tuned.labels)):
            count = round(share * images)
            if batch > count:
                part = f" at share {share:g}" if share < 1 else ""
                raise ParamsError(
                    f"{where} is {batch}, expected at most the {count} training images{part}"
                )
    if tuned.norms == "batch":
        own = ((section, norm) for section, norm in config.each_norm() if section == "backbone")
        _check_groups(own, f"{where} {batch}", batch)


def whole_batch_loss(config: Configuration) -> bool:
    """Whether the loss is not a mean over images, so that a part of a batch has another one."""
    facts = registry.facts("method", config.method.name)
    options = registry.complete("method", config.method.name, config.method.options)
    whole = facts.get("whole_batch_loss", {})
    return not facts.get("per_sample_loss") or any(options[o] in whole[o] for o in whole)


def check_devices(cells: Sequence[Cell], devices: int) -> None:
    """Raises UserError if a step of one of the cells cannot be divided among that many devices."""
    if devices == 1:
        return
    for cell in cells:
        training, tuned = cell.config.training, cell.config.evaluation.finetune
        sizes = {"training: batch_size": training.batch_size} if training else {}
        if tuned:
            sizes["evaluation.finetune: batch_size"] = tuned.batch_size
        for name, size in sizes.items():
            if size % devices:
                raise UserError(
                    f"{name} is {size}, expected a multiple of the {devices} devices ({cell.label})"
                )
        if training and training.micro_batches > 1:
            raise UserError(
                f"training: micro_batches is {training.micro_batches}, expected 1 with {devices} "
                f"devices, which divide a step already ({cell.label})"
            )
        if training and training.compile != "none":
            raise UserError(
                f"training: compile is {training.compile}, expected none with {devices} devices "
                f"({cell.label})"
            )


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
    if recipe.compile == "graphs":
        raise ParamsError(f"training: {refused} with compile graphs, which record a whole step")
    facts = registry.facts("method", name)
    options = registry.complete("method", name, config.method.options)
    if whole_batch_loss(config):
        named = facts.get("whole_batch_loss", ())
        why = "".join(f" with {option} {options[option]}," for option in named)
        raise ParamsError(f"method {name}: {refused}:{why} its loss needs the whole batch at once")
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
