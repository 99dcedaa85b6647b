"""The tracks of published recipes: sources, networks, and the tables of docs/recipes.md."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from benchmark.config.params import read
from benchmark.config.schema import Control, MethodParams, Params
from benchmark.core import canonical_json
from benchmark.planning import plan, sizes
from benchmark.planning.cell import Cell
from benchmark.training import network
from tests.helpers import tiny


@dataclass(frozen=True)
class Track:
    """A track of published recipes: its part of the page, its images, and the experiments with the
    sources' own norms and rates."""

    heading: str
    side: int
    classes: int
    experiments: tuple[str, ...] = ("published",)


TRACKS = {
    "cifar10-full": Track("CIFAR-10", 32, 10, ("published", "adapted")),
    "cifar100": Track("CIFAR-100", 32, 100),
    "imagenet-1k": Track("ImageNet", 224, 1000),
    "stl10": Track("STL-10", 96, 10),
    "imagenette": Track("Imagenette", 128, 10),
    "imagenet100": Track("ImageNet-100", 224, 100),
}

PAGE = (tiny.PROJECT / "docs" / "recipes.md").read_text(encoding="utf-8")
REPOSITORIES = set(re.findall(r"\| [A-Z]\d* \| [\w-]+/([\w.-]+)", PAGE))

NUMBER = r"(\d*\.?\d+(?:e-?\d+)?)"


@cache
def params(track: str) -> Params:
    return read(tiny.PROJECT / "tracks" / track / "params.yaml")


def images(track: str, recipe: str) -> int:
    """The images of an epoch."""
    splits = params(track).data.splits
    unlabelled = 0 if recipe == "supervised" or splits.unlabelled is None else UNLABELLED[track]
    return int(splits.train) + unlabelled


UNLABELLED = {"stl10": 100_000}
"""Images without labels, of which all are used."""


@cache
def first_cells(track: str) -> list[Cell]:
    """A cell of each row of the published recipes."""
    found = params(track)
    cells = [cell for name in TRACKS[track].experiments for cell in plan.cells(found, name, None)]
    return list({cell.row: cell for cell in cells}.values())


@dataclass(frozen=True)
class Line:
    """A row of the page's tables: what is compared with a cell."""

    track: str
    recipe: str
    backbone: str
    scheme: str
    epochs: float
    batch: int
    optimizer: str
    rate: float
    rule: str
    decay: str
    heads: str
    sources: tuple[str, ...]


@cache
def lines() -> list[Line]:
    found = []
    for track, about in TRACKS.items():
        (text,) = re.findall(rf"^## {about.heading}\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
        for line in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
            cells = [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
            match = re.fullmatch(rf"{NUMBER} \((.*)\)", cells[6])
            assert match, line
            found.append(
                Line(
                    track, cells[0], cells[1], cells[2], float(cells[3]), int(cells[4]), cells[5],
                    float(match[1]), match[2], cells[7], cells[11], tuple(cells[-1].split(", ")),
                )
            )  # fmt: skip
    return found


@pytest.mark.parametrize("track", TRACKS)
def test_every_recipe_has_a_source_that_the_page_lists(track: str) -> None:
    text = (tiny.PROJECT / "tracks" / track / "params.yaml").read_text(encoding="utf-8")
    (methods,) = re.findall(r"^methods:\n(.*?)^experiments:", text, re.MULTILINE | re.DOTALL)
    entries = re.findall(r"((?:^  #.*\n)*)^  ([\w-]+):", methods, re.MULTILINE)
    recipes = params(track).methods
    assert [name for _, name in entries] == list(recipes)
    for comment, name in entries:
        if isinstance(recipes[name], Control):
            continue
        said = " ".join(line.lstrip(" #") for line in comment.splitlines())
        source = said.partition("Source: ")[2]
        assert source, name
        # A repository of the page, or the one of the recipe above, or a word that there is none.
        known = any(re.search(rf"\b{re.escape(own)}\b", source) for own in REPOSITORIES)
        paper = re.match(r"\d{4}\.\d{5}", source)
        assert known or paper or source.startswith(("the same", "ours")), (name, source)


def test_the_page_has_every_trained_row_of_the_published_recipes() -> None:
    trained = {
        (track, cell.method, cell.backbone, cell.scheme)
        for track in TRACKS
        for cell in first_cells(track)
        if cell.config.training
    }
    shown = [(line.track, line.recipe, line.backbone, line.scheme) for line in lines()]
    assert len(shown) == len(set(shown)) > 80
    assert set(shown) == trained
    recipes = {
        (track, name)
        for track in TRACKS
        for name, recipe in params(track).methods.items()
        if isinstance(recipe, MethodParams)
    }
    assert {(track, recipe) for track, recipe, *_ in shown} == recipes


@pytest.mark.parametrize("line", lines(), ids=lambda line: f"{line.recipe}-{line.backbone}")
def test_the_page_says_what_is_trained(line: Line) -> None:
    (cell,) = (
        cell
        for cell in first_cells(line.track)
        if (cell.method, cell.backbone) == (line.recipe, line.backbone)
    )
    found, training = params(line.track), cell.config.training
    assert training
    recipe = found.methods[line.recipe]
    assert isinstance(recipe, MethodParams)
    chosen = recipe.optimizer.get(line.backbone, found.backbones[line.backbone].optimizer)
    assert line.optimizer == chosen
    assert training.images_seen == line.epochs * images(line.track, line.recipe)
    assert training.batch_size == line.batch
    assert math.isclose(training.learning_rate, line.rate)
    match = re.fullmatch(rf"{NUMBER}(?: to {NUMBER})?( \(all\))?", line.decay)
    assert match, line.decay
    assert training.weight_decay == float(match[1])
    assert training.weight_decay_end == (float(match[2]) if match[2] else None)
    assert training.weight_decay_on == ("all" if match[3] else "weights")
    # Every source is in the list of sources.
    assert all(s == "ours" or re.search(rf"^\| {s} \|", PAGE, re.MULTILINE) for s in line.sources)


@pytest.mark.parametrize("line", lines(), ids=lambda line: f"{line.recipe}-{line.backbone}")
def test_rates_are_scaled_as_the_source_says(line: Line) -> None:
    if match := re.fullmatch(rf"{NUMBER}(?: / (\d))? per (\d+)", line.rule):
        rate, divided, per = match.groups()
        assert math.isclose(
            line.rate, float(rate) / float(divided or 1) * line.batch / float(per), rel_tol=1e-6
        )
    elif match := re.fullmatch(rf"{NUMBER} × √batch", line.rule):
        assert math.isclose(line.rate, float(match[1]) * math.sqrt(line.batch))
    else:
        assert line.rule in {"not scaled", "not given", "ours"}


@pytest.mark.parametrize("track", TRACKS)
def test_numbers_of_the_published_recipes_fit_the_images(track: str) -> None:
    for cell in first_cells(track):
        more = UNLABELLED[track] if params(track).data.splits.unlabelled else 0
        labelled = int(params(track).data.splits.train)
        sizes.check(cell.config, labelled, TRACKS[track].side, unlabelled=more)


def timms(arguments: Mapping[str, Any], side: int) -> int:
    """Parameters of timm's own network, whose number BN or LN in place of its norms does not change."""
    own = dict(arguments["arguments"])
    if "vit" in arguments["architecture"]:
        own["img_size"] = side
    with torch.device("meta"):
        net = timm.create_model(arguments["architecture"], num_classes=0, **own)
    count = sum(weights.numel() for weights in net.parameters())
    # The stem for small images has 3×3 weights for each of 3 · 64 pairs of channels, not 7×7.
    return count - (49 - 9) * 3 * 64 if arguments["stem"] else count


def networks() -> dict[str, Cell]:
    """A cell of each network of the published recipes, whatever its length and rates, by its names."""
    different = {}
    for track in TRACKS:
        for cell in first_cells(track):
            if cell.backbone != "pixels":
                parts = {**cell.config.as_json(), "training": track}
                different[canonical_json.compact(parts)] = f"{track}-{cell.row}", cell
    return dict(different.values())


NETWORKS = networks()
HEADS = ("projector", "predictor", "decoder")
NORMS = {"BN": "BatchNorm", "LN": "LayerNorm", "none": ""}


def widths(head: nn.Module) -> list[int]:
    """The output widths of a head's layers."""
    return [layer.out_features for layer in head.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_published_recipes_have_the_layers_of_the_page(name: str) -> None:
    cell = NETWORKS[name]
    side, classes = TRACKS[cell.track].side, TRACKS[cell.track].classes
    manifest = tiny.manifest((3, side, side), "x" * classes, images(cell.track, cell.method))
    with torch.device("meta"):
        method = network.build(cell, manifest)
    sections = dict(method.named_children())
    backbone = sections["backbone"]
    arguments = params(cell.track).backbones[cell.backbone].arguments
    assert sum(weights.numel() for weights in backbone.parameters()) == timms(arguments, side)

    (row,) = re.findall(rf"^\| `{cell.scheme}` \| (\w+) \| (\w+)[^|]* \|", PAGE, re.MULTILINE)
    for section, norm in (("backbone", row[0]), *((head, row[1]) for head in HEADS)):
        if section in sections:
            kinds = {type(layer).__name__ for layer in sections[section].modules()}
            found = {kind for kind in kinds if "Norm" in kind}
            if not NORMS[norm]:
                assert not found, section
            else:
                assert found, section
                assert all(NORMS[norm] in kind for kind in found), section

    if cell.config.training and "projector" in sections:
        (text,) = {
            line.heads for line in lines() if (line.track, line.recipe) == (cell.track, cell.method)
        }
        layers = [widths(sections[head]) for head in HEADS if head in sections]
        shown = "; ".join("–".join(map(str, out)) for out in layers)
        if "prototypes" in sections:
            shown += f", {widths(sections['prototypes'])[0]}"
        assert text == shown


def test_the_classes_of_imagenet_100_are_linked_as_the_docs_say(tmp_path: Path) -> None:
    file = tiny.PROJECT / "tracks" / "imagenet100" / "classes.txt"
    names = file.read_text(encoding="ascii").split()
    # Of the sorted lines of imagenet100.txt in HobbitLong/CMC.
    assert hashlib.md5(file.read_bytes()).hexdigest() == "9d992254a6595741282afce949eed519"
    assert len(set(names)) == 100
    whole = [*names, "n00000000"]
    for split in ("train", "val"):
        for name in whole:
            (tmp_path / "whole" / split / name).mkdir(parents=True)
            (tmp_path / "whole" / split / name / "image.jpeg").touch()
    (tmp_path / "tracks").symlink_to(tiny.PROJECT / "tracks")
    page = (tiny.PROJECT / "docs" / "datasets.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```\n(for split in .*?)```", page, re.DOTALL)
    environment = os.environ | {"IMAGENET": "whole"}
    subprocess.run(["bash", "-ec", block], cwd=tmp_path, env=environment, check=True)
    for split in ("train", "val"):
        linked = sorted(path.parent.name for path in tmp_path.glob(f"imagenet100/{split}/*/*"))
        assert linked == sorted(names)
