"""Trainings of a few steps in double precision, to compare one way of computing a step with another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark.components import plugins, registry
from benchmark.methods.base import Method
from benchmark.planning.cell import Cell
from benchmark.planning.configuration import Configuration, NormConfig
from benchmark.training import network
from benchmark.training.loop import Trained, train
from tests.helpers import small, tiny

BATCH, STEPS, COUNT = 64, 3, 512
FACTS = registry.catalogue("method")
VIEW = {
    "crop_scale": [0.3, 1.0], "crop_ratio": [0.75, 1.3333], "flip": 0.5, "jitter": 0.8,
    "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grayscale": 0.2,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {"moco": {"queue": BATCH}, "dino": {"freeze": 0.5}}
"""What makes the state of a method one that a step must leave as it was: DINO's prototypes are frozen
in two of three steps."""


class Passed(NamedTuple):
    """What a training left."""

    trained: Trained
    state: dict[str, Tensor]
    gradients: dict[str, Tensor]


def configured(
    method: str, backbone: str, norms: Any, training: dict[str, Any], options: dict[str, Any]
) -> Configuration:
    views = registry.facts("method", method)["views"]
    batching = {"view_batching": registry.facts("method", method).get("view_batching", "separate")}
    given = {
        "batch_size": BATCH, "images_seen": STEPS * BATCH, "learning_rate": 0.05,
        "weight_decay": 0.01, "views": [VIEW] * views, **batching, **training,
    }  # fmt: skip
    spec = norms if "norm" in norms else {"norm": "ln"}
    options = OPTIONS.get(method, {}) | options
    found = small.configuration(method, backbone, "", training=given, spec=spec, **options)
    if "norm" in norms:
        return found
    sections = {name: NormConfig.model_validate(norm) for name, norm in norms.items()}
    return found.model_copy(update={"norms": found.norms | sections})


def built(config: Configuration) -> Method:
    """A network in double precision, off its initial weights."""
    cell = Cell("t", "e", "m", "b", "s", 0, "l", config, {})
    manifest = tiny.manifest((3, small.SIDE, small.SIDE), "abcde", COUNT)
    made = network.build(cell, manifest).double()
    small.stir(made)
    made.start()
    return made


class Killed(Exception):
    """What ends a training in the middle of a step."""


def passed(
    folder: Path,
    config: Configuration,
    parts: int,
    progress: Any = lambda *_: True,
    passes: int | None = None,
) -> Passed:
    """A training of a few steps, each in so many parts, killed before it makes more than so many."""
    method = built(config)
    made = itertools.count()

    def count(*_: object) -> None:
        if next(made) == passes:
            raise Killed

    method.register_forward_pre_hook(count)
    dice = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (COUNT, 3, small.SIDE, small.SIDE), dtype=torch.uint8, generator=dice
    )
    labels = torch.randint(0, 5, (COUNT,), generator=dice)
    recipe = config.recipe.model_copy(update={"micro_batches": parts})
    trained = train(
        method, recipe, 0, images, labels, lambda x: ((x - 0.5) / 0.3).double(),
        torch.device("cpu"), folder / "checkpoint.safetensors", f"{parts} {config}", progress, 1,
    )  # fmt: skip
    gradients = {k: p.grad for k, p in method.named_parameters() if p.grad is not None}
    return Passed(trained, method.state_dict(), gradients)


def differences(one: Passed, other: Passed, rtol: float = 1e-6, atol: float = 1e-7) -> list[str]:
    """What is not the same: loss, gradients, weights, running statistics, counts.

    `atol` is relative to a tensor's largest number, if that is above 1.
    """
    assert one.state.keys() == other.state.keys()
    assert one.gradients.keys() == other.gradients.keys()
    pairs = {f"curve {k}": (v, other.trained.curves[k]) for k, v in one.trained.curves.items()}
    pairs |= {f"state {k}": (v, other.state[k]) for k, v in one.state.items()}
    pairs |= {f"gradient {k}": (v, other.gradients[k]) for k, v in one.gradients.items()}
    return [
        name
        for name, (a, b) in pairs.items()
        if not torch.allclose(a, b, rtol=rtol, atol=atol * largest(b), equal_nan=True)
    ]


def largest(values: Tensor) -> float:
    """The largest absolute value, or 1."""
    return float(values.double().abs().nan_to_num(0).max().clamp(min=1)) if values.numel() else 1.0


def several(folder: Path, configs: list[Configuration]) -> list[Passed]:
    """A few steps of each."""
    found = []
    for number, one in enumerate(configs):
        try:
            found.append(passed(folder / str(number), one, 1))
        except Exception as error:
            raise RuntimeError(f"{one.method} {one.backbone} {one.norms}") from error
    return found


def with_plug_ins(files: Sequence[str], folder: Path, configs: list[Configuration]) -> list[Passed]:
    """The same with components of these files."""
    with plugins.added(files):
        return several(folder, configs)
