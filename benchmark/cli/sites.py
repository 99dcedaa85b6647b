"""`benchmark sites`: the norms of a model of timm, and which norms may take their places."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmark.components import registry, timm_models
from benchmark.components.facts import PIXELS, TIMM
from benchmark.config import yaml_file
from benchmark.config.presets import UNIFORM
from benchmark.core.errors import UserError

if TYPE_CHECKING:  # torch takes seconds to import
    from benchmark.backbones.base import ImageShape
    from benchmark.backbones.sites import NormSite
    from benchmark.backbones.timm_model import TimmModel

HELP = "list the norms of a model of timm, to name them in a scheme"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    verb.add_argument("model", metavar="MODEL", help="a model of timm, e.g. resnet50")
    verb.add_argument(
        "--images", metavar="C,H,W", help="shape of the images (default: that of timm's weights)"
    )
    verb.add_argument(
        "--arguments", metavar="{…}", default="{}",
        help="arguments of the model as in params.yaml, e.g. '{patch_size: 4}'",
    )  # fmt: skip
    verb.add_argument(
        "--norms", action="store_true",
        help="also try every norm in all places, and say why one is not defined",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Prints a line for each norm in the order of the forward pass, then what else there is."""
    model = arguments.model
    timm_models.check(model, frozenset(registry.catalogue("backbone")) - {PIXELS, TIMM})
    if model not in timm_models.names():
        raise UserError(f"{model} is a component of the benchmark, expected a model of timm")
    given = yaml_file.loads(arguments.arguments.encode(), "--arguments")
    if not isinstance(given, dict):
        raise UserError(
            f"--arguments is {arguments.arguments!r}, expected a mapping: {{key: value}}"
        )

    shape = _shape(model, arguments.images)
    found = _build(model, shape, given, {"norm": "own"})
    for line in listing(found):
        print(line)
    if arguments.norms:
        print()
        for name, spec in UNIFORM.items():
            try:
                _build(model, shape, given, spec)
                print(f"{name}: defined")
            except UserError as error:
                print(f"{name}: {str(error).removeprefix(f'backbone {model}: ')}")


def listing(model: TimmModel) -> list[str]:
    """The table of sites, and a line each for branches, other normalization and masks."""
    sites = model.sites
    rows = [_row(site) for site in sites.norms]
    header = ("path", "norm", "input", "place", "activation", "convolution")
    lines = _table([header, *rows])
    lines.append("")
    lines.append(f"{len(sites.norms)} norms, {len(sites.branch_ends)} residual branches")
    if sites.unscalable:
        lines.append(f"branches cannot be scaled: {sites.unscalable}")
    kinds: dict[str, list[str]] = {}
    for path, kind in sites.staying:
        kinds.setdefault(kind, []).append(path)
    for kind, paths in kinds.items():
        lines.append(f"stays: {kind} ({len(paths)}, e.g. {paths[0]})")
    reason = model.unmaskable()
    lines.append(f"masked training: {f'refused, {reason}' if reason else 'possible'}")
    lines.append(f"embedding: {model.width} values; readouts: {', '.join(model.readouts)}")
    return lines


def _row(site: NormSite) -> tuple[str, ...]:
    shape = site.shape + (" (channels last)" if site.channels_last else "")
    after = "in the norm" if site.fused else site.activation or "-"
    return (
        site.path,
        site.kind,
        f"{shape} {'×'.join(map(str, site.sample))}",
        ", ".join(site.parts),
        after + (" (shared)" if site.shared else ""),
        site.convolution or "-",
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _shape(model: str, given: str | None) -> ImageShape:
    import timm

    from benchmark.backbones.base import ImageShape

    if given is None:
        known = timm.get_pretrained_cfg(model)
        return ImageShape(*(known.input_size if known else (3, 224, 224)))
    sides = given.split(",")
    if len(sides) != 3 or not all(
        side.isascii() and side.isdigit() and int(side) for side in sides
    ):
        raise UserError(f"--images is {given!r}, expected channels, height and width, e.g. 3,32,32")
    return ImageShape(*map(int, sides))


def _build(
    model: str, shape: ImageShape, arguments: dict[str, Any], spec: dict[str, Any]
) -> TimmModel:
    import torch

    from benchmark.norms.factory import SectionNorms

    with torch.device("meta"):
        norms = SectionNorms("backbone", spec)
        made: TimmModel = registry.build(
            "backbone", TIMM, shape, norms, architecture=model, arguments=arguments
        )
    return made
