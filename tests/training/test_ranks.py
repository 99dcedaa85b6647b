"""A step that processes share is the step of one, for every method and norm."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.components import plugins
from benchmark.planning.configuration import Configuration
from tests.helpers import ranks, small, trainings
from tests.helpers.trainings import BATCH, FACTS, configured

DEPENDENT = [n for n in small.NORMS if small.norms(n).facts["batch_dependent"]]
LEGAL = small.combinations()
SIMPLE = sorted(set(small.NORMS) - set(DEPENDENT))


def config(method: str, backbone: str, norm: str) -> Configuration:
    """A small training with the options of the norm's example."""
    given = {
        "view_batching": FACTS[method].get("view_batching", "separate"),
        # A rate at which no norm diverges, which would magnify the rounding of sums.
        "learning_rate": 1e-5,
        "batch_size": 16,
        "images_seen": 3 * 16,
    }
    return configured(method, backbone, {"norm": norm, **small.options("norm", norm)}, given, {})


def compare(
    folder: Path,
    cases: dict[Any, Configuration],
    size: int,
    train: Callable[[Path, list[Configuration]], list[trainings.Passed]] = trainings.several,
) -> dict[Any, list[str]]:
    """What differs between some processes and one, by case; in double precision, to 1e-9."""
    configs = list(cases.values())
    (one,) = ranks.run(1, folder, train, folder / "1", configs)
    finite = [bool(each.trained.curves["loss"].isfinite().all()) for each in one]
    assert [case for case, good in zip(cases, finite, strict=True) if not good] == []
    differing = {}
    first, *_ = ranks.run(size, folder, train, folder / str(size), configs)
    for case, ours, theirs in zip(cases, one, first, strict=True):
        if found := trainings.differences(ours, theirs, rtol=1e-9, atol=1e-9):
            differing[case] = found
    return differing


@pytest.mark.parametrize("backbone", small.BACKBONES)
def test_two_processes_are_one(tmp_path: Path, backbone: str) -> None:
    """Every method, each with two norms of the batch and one other."""
    chosen = {}
    for place, method in enumerate(small.TRAINED):
        norms = [DEPENDENT[place % len(DEPENDENT)], DEPENDENT[(place + 1) % len(DEPENDENT)]]
        # SepNorm is defined for few methods, so each of them has it.
        norms += [SIMPLE[place % len(SIMPLE)], "sepnorm"]
        for norm in norms:
            if (method, backbone, norm) in LEGAL:
                chosen[method, norm] = config(method, backbone, norm)
    assert compare(tmp_path, chosen, 2) == {}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", small.BACKBONES)
def test_four_processes_are_one(tmp_path: Path, backbone: str) -> None:
    """Every method with every norm that is defined."""
    cases = {case: config(*case) for case in LEGAL if case[1] == backbone}
    assert compare(tmp_path, cases, 4) == {}


def ghost(groups: int, assignment: str) -> dict[str, Any]:
    return {"norm": "ghost-bn", "groups": groups, "assignment": assignment}


LOCAL = {**trainings.VIEW, "size": small.SIDE // 2}
JOINT: dict[str, Any] = {"view_batching": "joint"}
SEPARATE: dict[str, Any] = {"view_batching": "separate"}


def teacher(statistics: str, shuffle: bool = False) -> dict[str, Any]:
    return {"teacher": {"statistics": statistics, "shuffle": shuffle}}


OTHERS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    **{
        f"{groups} {assignment} groups, {batching['view_batching']}": (
            "simclr", ghost(groups, assignment), batching, {}
        )
        for groups in (2, 8, BATCH // 4)
        for assignment in ("contiguous", "strided")
        for batching in (JOINT, SEPARATE)
    },
    **{
        f"{groups} {assignment} groups of turns": (
            "rotation", ghost(groups, assignment), {}, {"rotations": 4}
        )
        for groups in (2, BATCH)
        for assignment in ("contiguous", "strided")
    },
    **{
        f"teacher {statistics}": ("byol", {"norm": "bn"}, teacher(statistics), {})
        for statistics in ("batch", "running", "momentum", "eman")
    },
    "shuffled groups": ("moco", ghost(8, "contiguous"), teacher("batch", True), {}),
    "symmetric, joint and shuffled": (
        "moco", ghost(8, "contiguous"), teacher("batch", True) | JOINT,
        {"symmetric": True, "queue": 2 * BATCH},
    ),
    "a loss with a norm of the batch": ("byol", {"norm": "bn"}, {}, {"loss_norm": "batch"}),
    "a queue of embeddings": ("swav", {"norm": "bn"}, JOINT, {"queue": 2 * BATCH}),
    "frozen prototypes": ("dino", {"norm": "bn"}, JOINT, {"freeze": 0.5}),
    "local views": (
        "dino", ghost(4, "strided"), JOINT | {"views": [trainings.VIEW] * 2 + [LOCAL] * 2}, {}
    ),
    "local views of a whole-batch loss": (
        "lejepa", {"norm": "bn"}, JOINT | {"views": [trainings.VIEW] * 2 + [LOCAL] * 2}, {}
    ),
    "clipped": ("simsiam", {"norm": "bn"}, {"clip_grad_norm": 0.1}, {}),
}  # fmt: skip


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_are_one_whatever_the_recipe(tmp_path: Path, size: int) -> None:
    cases = {
        name: configured(method, "resnet", norms, training, options)
        for name, (method, norms, training, options) in OTHERS.items()
    }
    assert compare(tmp_path, cases, size) == {}


PLUG_IN_NORM = '''
import torch
from torch import nn

COMPONENT = {
    "kind": "norm", "name": "batch-rms", "version": 1, "options": {}, "batch_dependent": True,
}


class BatchRMS(nn.Module):
    """Divides each channel by its root mean square over the batch, without running statistics."""

    def __init__(self, width, channels):
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        axes = [axis for axis in range(x.ndim) if axis != self.channels % x.ndim]
        shape = [1] * x.ndim
        shape[self.channels] = -1
        rms = x.square().mean(axes).add(1e-5).sqrt()
        return x / rms.view(shape) * self.gain.view(shape)


def build(name, site):
    return BatchRMS(site.width, -1 if site.shape == "tokens" else 1)
'''
PLUG_IN_METHOD = '''
import torch

from benchmark.methods.base import Method, Outcome
from benchmark.methods.heads import mlp

COMPONENT = {
    "kind": "method", "name": "decorrelate", "version": 1, "options": {}, "title": "Decorrelate",
    "views": 2, "sections": ["backbone", "projector", "predictor"], "teacher": False,
}


class Decorrelate(Method):
    """A loss of the whole batch with norms of its own after the projections, and a mean over steps."""

    def __init__(self, backbone, context):
        super().__init__(backbone, context)
        self.projector = mlp([backbone.width, 16, 8], context.norms["projector"])
        self.predictor = mlp([8, 16, 8], context.norms["predictor"])
        self.both = mlp([8, 8, 8], context.norms["predictor"], "norm")
        self.standardise = torch.nn.BatchNorm1d(8)
        self.register_buffer("running_mean", torch.zeros(8))

    def forward(self, batch):
        projected = self.projections(batch.views)
        first, second = self.each_view(self.predictor, projected)
        (both,) = self.each_view(self.both, [torch.cat((first, second))])
        z = torch.cat((self.predictor(projected[0]), both)) - self.running_mean
        self.running_mean = self.running_mean.lerp(z.detach().mean(0).to(self.running_mean), 0.1)
        z = self.standardise(z)
        correlation = z.T @ z / len(z)
        loss = (correlation - torch.eye(8).to(z)).square().sum() + (first - second).square().mean()
        return Outcome(loss, None)


build = Decorrelate
'''
SHORT_SIGHTED = '''
import torch
import torch.nn.functional as F

from benchmark.methods.base import Method, Outcome

COMPONENT = {
    "kind": "method", "name": "short-sighted", "version": 1, "options": {}, "title": "Short",
    "views": 2, "sections": ["backbone"], "teacher": False,
}


class ShortSighted(Method):
    """Asks the backbone by itself. At first its loss does not show that it has a part of the batch."""

    def __init__(self, backbone, context):
        super().__init__(backbone, context)
        self.gain = torch.nn.Linear(1, 1, bias=False)

    def start(self):
        torch.nn.init.zeros_(self.gain.weight)

    def forward(self, batch):
        first, second = (self.gain.weight * self.backbone(view) for view in batch.views)
        return Outcome(F.cross_entropy(first @ second.T, torch.arange(len(first))), None)


build = ShortSighted
'''


def written(folder: Path, **files: str) -> list[str]:
    found = []
    for name, text in files.items():
        found.append(str(folder / f"{name}.py"))
        Path(found[-1]).write_text(text, encoding="utf-8")
    return found


def test_plug_ins_see_the_whole_batch(tmp_path: Path) -> None:
    files = written(tmp_path, norm=PLUG_IN_NORM, method=PLUG_IN_METHOD)
    with plugins.added(files):
        cases = {
            (method, backbone, norm): configured(
                method, backbone, {"norm": norm}, {"learning_rate": 0.002}, {}
            )
            for method, backbone, norm in (
                ("decorrelate", "resnet", "batch-rms"),
                ("decorrelate", "vit", "bn"),
                ("simclr", "vit", "batch-rms"),
                ("byol", "resnet", "batch-rms"),
            )
        }
        train = functools.partial(trainings.with_plug_ins, files)
        assert compare(tmp_path, cases, 2, train=train) == {}


def test_a_loss_that_misses_a_part_of_the_batch_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path, method=SHORT_SIGHTED)
    with plugins.added(files):
        cases = [configured("short-sighted", "resnet", {"norm": "ln"}, {}, {})]
    train = functools.partial(trainings.with_plug_ins, files)
    with pytest.raises(RuntimeError, match="ShortSighted: its loss is not of the whole batch"):
        ranks.run(2, tmp_path, train, tmp_path, cases)
