"""A step that processes share is the step of one, for every method and norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.planning.configuration import Configuration
from tests.helpers import ranks, small, trainings
from tests.helpers.trainings import BATCH, FACTS, configured

DEPENDENT = [n for n in small.NORMS if small.norms(n).facts["batch_dependent"]]
LEGAL = [
    (method, backbone, norm)
    for method in small.TRAINED
    for backbone in small.BACKBONES
    for norm in small.NORMS
    if small.legal(method, backbone, norm)
]
SIMPLE = sorted(set(small.NORMS) - set(DEPENDENT))


def config(method: str, backbone: str, norm: str) -> Configuration:
    """A small training with the options of the norm's example."""
    given = {
        "view_batching": FACTS[method].get("view_batching", "separate"),
        # A rate at which no norm diverges, which would magnify the rounding of sums.
        "learning_rate": 0.002,
        "batch_size": 16,
        "images_seen": 3 * 16,
    }
    return configured(method, backbone, {"norm": norm, **small.options("norm", norm)}, given, {})


def trained(folder: Path, configs: list[Configuration]) -> list[trainings.Passed]:
    """A few steps of each."""
    found = []
    for number, one in enumerate(configs):
        try:
            found.append(trainings.passed(folder / str(number), one, 1))
        except Exception as error:
            raise RuntimeError(f"{one.method} {one.backbone} {one.norms}") from error
    return found


def compare(folder: Path, cases: dict[Any, Configuration], size: int) -> dict[Any, list[str]]:
    """What differs between `size` processes and one, by case; in double precision, to 1e-9."""
    configs = list(cases.values())
    (one,) = ranks.run(1, folder, trained, folder / "1", configs)
    first, *_ = ranks.run(size, folder, trained, folder / str(size), configs)
    finite = [bool(each.trained.curves["loss"].isfinite().all()) for each in one]
    assert [case for case, good in zip(cases, finite, strict=True) if not good] == []
    differences = (
        trainings.differences(*pair, rtol=1e-9, atol=1e-9) for pair in zip(one, first, strict=True)
    )
    return {case: found for case, found in zip(cases, differences, strict=True) if found}


@pytest.mark.parametrize("backbone", small.BACKBONES)
def test_two_processes_are_one(tmp_path: Path, backbone: str) -> None:
    """Every method, each with two norms of the batch and one other."""
    chosen = {}
    for place, method in enumerate(small.TRAINED):
        norms = [DEPENDENT[place % len(DEPENDENT)], DEPENDENT[(place + 1) % len(DEPENDENT)]]
        norms.append(SIMPLE[place % len(SIMPLE)])
        for norm in norms:
            if (method, backbone, norm) in LEGAL:
                chosen[method, norm] = config(method, backbone, norm)
    assert compare(tmp_path, chosen, 2) == {}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("backbone", small.BACKBONES)
def test_processes_are_one(tmp_path: Path, backbone: str, size: int) -> None:
    cases = {case: config(*case) for case in LEGAL if case[1] == backbone}
    assert compare(tmp_path, cases, size) == {}


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
