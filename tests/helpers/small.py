"""Networks small enough for tests, of every method, backbone and norm that the benchmark has."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch

from benchmark.backbones.base import Backbone
from benchmark.components import registry
from benchmark.components.facts import SECTIONS
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw
from benchmark.methods.base import Batch, Method
from benchmark.norms.factory import SectionNorms, Shape
from benchmark.planning.cell import Cell
from benchmark.planning.configuration import Configuration, EvaluationConfig, TrainingConfig
from benchmark.training import network
from tests.helpers import tiny

SIDE, BATCH, CLASSES = 16, 8, 5
MANIFEST = tiny.manifest((3, SIDE, SIDE), "abcde", 64)
LIVELY: dict[str, Any] = {
    "crop_scale": [0.3, 1.0],
    "crop_ratio": [0.75, 4 / 3],
    "flip": 0.5,
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.5,
    "solarize": 0.3,
}
"""A view in which every operation happens."""
TEACHER = {"statistics": "batch", "shuffle": True}
EVALUATION = EvaluationConfig(
    knn_k=(5, 20),
    knn_temperature=0.07,
    probe_c=(0.01, 0.1, 1.0),
    precise_bn_batch_size=20,
    judge="test",
)
NORMS = sorted(set(registry.catalogue("norm")) - {"own"})
"""Those that a site can have by itself; `own` is what a network has there."""
BACKBONES = sorted(
    name for name, facts in registry.catalogue("backbone").items()
    if name not in ("pixels", "timm")
)  # fmt: skip
"""Those of the benchmark and plug-ins; tests/backbones/test_timm_models.py is about timm's models."""
SITES: dict[str, Shape] = {"resnet": "map", "vit": "tokens"}
"""The shape of the sites in the benchmark's backbones and their decoders."""
BARE_HEADS = {"mocov3", "simsiam"}
"""Methods of the benchmark whose heads end in a norm without scale and shift."""
OWN = {kind: set(registry.own(kind)) - {"own"} for kind in ("norm", "backbone", "method")}
TRAINED = sorted(name for name, facts in registry.catalogue("method").items() if facts["views"])


def options(kind: str, name: str) -> dict[str, Any]:
    """The options of a component's `example`, which is small, and its defaults."""
    return registry.complete(kind, name, registry.facts(kind, name).get("example", {}))


def change(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, **changed: Any) -> None:
    """Gives a component's example other options in this test."""
    facts = registry.facts(kind, name)
    monkeypatch.setitem(facts, "example", facts["example"] | changed)


def norms(name: str, section: str = "backbone") -> SectionNorms:
    """The norms of one section under one scheme."""
    return SectionNorms(section, {"norm": name, **options("norm", name)})


def recipe(**changes: Any) -> TrainingConfig:
    """How a small network is trained, with some fields changed."""
    found = {
        "batch_size": BATCH,
        "images_seen": BATCH,
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "warmup_fraction": 0.0,
        "precision": "float32",
        "weight_decay_on": "weights",
        "view_batching": "separate",
        "optimizer": {"name": "sgd", **options("optimizer", "sgd")},
        "views": [],
        "teacher": TEACHER,
    }
    return TrainingConfig.model_validate(found | changes)


def configuration(
    method: str,
    backbone: str,
    norm: str,
    seed: int = 0,
    training: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **changes: Any,
) -> Configuration:
    """A small cell's configuration; `training` changes fields of the recipe, `changes` the method's.

    `spec` is the norm of every section, by default `norm` with the options of its example.
    """
    spec = spec or {"norm": norm, **options("norm", norm)}
    return Configuration.model_validate(
        {
            "method": {"name": method, **options("method", method), **changes},
            "backbone": {"model": backbone, **options("backbone", backbone)},
            "norms": dict.fromkeys(SECTIONS, spec),
            "training": recipe(**(training or {})),
            "evaluation": EVALUATION,
            "seed": seed,
        }
    )


def build(method: str, backbone: str, norm: str, seed: int = 0, **changes: Any) -> Method:
    """A method's network as a cell has it at the start, in training mode; see `configuration`."""
    config = configuration(method, backbone, norm, seed, **changes)
    return network.build(Cell("t", "e", method, backbone, norm, seed, "l", config, {}), MANIFEST)


@functools.cache
def defined(norm: str, shape: Shape, positions: int = 9, affine: bool = True) -> bool:
    """Whether the norm has a layer for sites of a shape, here with 8 channels.

    As in the benchmark's networks, tokens begin with a class token.
    """
    try:
        norms(norm).layer(shape, 8, positions, affine, class_token=shape == "tokens")
    except UserError:
        return False
    return True


@functools.cache
def legal(method: str, backbone: str, norm: str) -> bool:
    """Whether the norm is defined at every site of that method's network.

    For components of the benchmark this follows from the shape of each section's sites, so collecting
    tests builds no network; a combination with a plug-in is built. tests/norms/test_catalogue.py lists
    what is not legal, so that a norm cannot hide from a test.
    """
    plug_in = norm not in OWN["norm"] or backbone not in OWN["backbone"]
    if plug_in or method not in OWN["method"]:
        try:
            build(method, backbone, norm)
        except UserError:
            return False
        return True
    sections = registry.facts("method", method)["sections"]
    return all(
        defined(norm, shape, 1 if shape == "vector" else 9)
        for shape in {section_shape(section, backbone) for section in sections}
    ) and (method not in BARE_HEADS or defined(norm, "vector", 1, affine=False))


def combinations() -> list[tuple[str, str, str]]:
    """Every method and backbone with every norm that is defined in it."""
    every = itertools.product(TRAINED, BACKBONES, NORMS)
    return [case for case in every if legal(*case)]


def section_shape(section: str, backbone: str) -> Shape:
    """The shape of a section's sites in a network of the benchmark."""
    return "vector" if section in ("projector", "predictor") else SITES[backbone]


def backbones() -> list[tuple[str, str]]:
    """Every backbone with every norm that is defined in it."""
    return [(b, n) for b in BACKBONES for n in NORMS if legal("supervised", b, n)]


def encoder(backbone: str, norm: str, seed: int = 0) -> Backbone:
    """A backbone with its initial weights."""
    return build("supervised", backbone, norm, seed).backbone


def images(n: int = BATCH, seed: int = 0) -> torch.Tensor:
    """Standardised noise (n, 3, SIDE, SIDE)."""
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def batch(method: str, step: int = 0, n: int = BATCH) -> Batch:
    """A batch of noise for one step of a method."""
    views = [images(n, 100 * step + v) for v in range(registry.facts("method", method)["views"])]
    return Batch(views, torch.arange(n) % CLASSES, Draw(0, step), step / 10)


def stir(network: torch.nn.Module, seed: int = 0) -> None:
    """Moves every parameter off its initial value, so that no branch is switched off."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
