"""Networks small enough for tests, of every method, backbone and norm that the benchmark has."""

from __future__ import annotations

import functools
from typing import Any

import torch

from benchmark.backbones.base import Backbone
from benchmark.components import registry
from benchmark.components.facts import SECTIONS
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw
from benchmark.methods.base import Batch, Method
from benchmark.norms.factory import SectionNorms
from benchmark.planning.cell import Cell
from benchmark.planning.configuration import Configuration, EvaluationConfig, TrainingConfig
from benchmark.training import network
from tests.helpers import tiny

SIDE, BATCH, CLASSES = 16, 8, 5
MANIFEST = tiny.manifest((3, SIDE, SIDE), "abcde", 64)
TEACHER = {"statistics": "batch", "shuffle": True}
EVALUATION = EvaluationConfig(
    knn_k=(5, 20),
    knn_temperature=0.07,
    probe_c=(0.01, 0.1, 1.0),
    precise_bn_batch_size=20,
    judge="test",
)
NORMS = sorted(registry.catalogue("norm"))
BACKBONES = sorted(
    name for name, facts in registry.catalogue("backbone").items() if facts["options"]
)
TRAINED = sorted(name for name, facts in registry.catalogue("method").items() if facts["views"])

NORM_OPTIONS: dict[str, dict[str, Any]] = {
    "gn": {"groups": 4},
    "gn-ws": {"groups": 4},
    "evonorm-s0": {"groups": 4},
    "ghost-bn": {"groups": 2, "assignment": "contiguous"},
    "batch-renorm": {"r_max": 3.0, "d_max": 5.0, "start": 0, "end": 4},
    "dyt": {"alpha": 0.5},
}
BACKBONE_OPTIONS: dict[str, dict[str, Any]] = {
    "resnet": {
        "channels": [8, 8, 16, 16],
        "layers": [1, 1, 1, 1],
        "stem_kernel": 3,
        "stem_stride": 1,
        "stem_pool": False,
        "branch_gain": 1,
    },
    "vit": {
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "patch_size": 4,
        "placement": "pre",
        "final_norm": "before-pool",
        "mlp_norm": False,
        "qk_norm": False,
    },
}
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "rotation": {"rotations": 1},
    "simclr": {"temperature": 0.2, "hidden": 16, "output": 8, "output_norm": False},
    "moco": {
        "temperature": 0.2,
        "hidden": 16,
        "output": 8,
        "queue": 16,
        "momentum": 0.9,
        "symmetric": False,
    },
    "mae": {"mask_ratio": 0.75, "patch": 4, "decoder_width": 8, "normalize_target": False},
    "mocov3": {"temperature": 0.2, "hidden": 16, "output": 8, "momentum": 0.9},
    "byol": {"hidden": 16, "output": 8, "momentum": 0.9, "loss_norm": "l2"},
    "simsiam": {"output": 16, "bottleneck": 8, "stop_gradient": True},
    "barlow": {
        "hidden": 16,
        "output": 8,
        "off_diagonal": 0.005,
        "scale": 0.1,
        "loss_norm": "batch",
    },
    "vicreg": {
        "hidden": 16,
        "output": 8,
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
        "loss_norm": "none",
    },
    "swav": {
        "temperature": 0.1,
        "hidden": 16,
        "output": 8,
        "prototypes": 12,
        "epsilon": 0.05,
        "iterations": 3,
        "queue": 0,
        "queue_from": 0.0,
        "freeze": 0.0,
    },
    "dino": {
        "hidden": 16,
        "bottleneck": 8,
        "prototypes": 12,
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "center_momentum": 0.9,
        "momentum": 0.9,
        "freeze": 0.0,
    },
    "lejepa": {"hidden": 16, "output": 8, "weight": 0.05, "slices": 16, "points": 17},
}


def options(kind: str, name: str, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The options of a component: a line in a table above, or the `example` of a plug-in's facts."""
    facts = registry.facts(kind, name)
    given = facts.get("defaults", {}) | table.get(name, facts.get("example", {}))
    wanted = set(facts["options"])
    assert wanted == set(given), (
        f"tests/helpers/small.py: {kind.upper()}_OPTIONS lacks {name!r}: {wanted}"
    )
    return given


def norms(name: str, section: str = "backbone") -> SectionNorms:
    """The norms of one section under one scheme."""
    return SectionNorms(section, {"norm": name, **options("norm", name, NORM_OPTIONS)})


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
        "optimizer": {"name": "sgd", "momentum": 0.0, "nesterov": False},
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

    `spec` is the norm of every section, by default `norm` with the options of these tests.
    """
    spec = spec or {"norm": norm, **options("norm", norm, NORM_OPTIONS)}
    return Configuration.model_validate(
        {
            "method": {"name": method, **options("method", method, METHOD_OPTIONS), **changes},
            "backbone": {"model": backbone, **options("backbone", backbone, BACKBONE_OPTIONS)},
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
def legal(method: str, backbone: str, norm: str) -> bool:
    """Whether the norm is defined at every site of that method's network.

    tests/norms/test_catalogue.py lists what is not, so that a norm cannot hide from a test.
    """
    try:
        build(method, backbone, norm)
    except UserError:
        return False
    return True


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
