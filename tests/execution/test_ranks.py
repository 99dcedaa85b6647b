"""A whole cell on two processes: the same record as on one, and checkpoints that either can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.execution.cell import run
from benchmark.results.records import Record, Store
from benchmark.training.loop import Interrupted
from tests.helpers import ranks, tiny

LABELS = ("simclr-resnet-bn-s0", "moco-resnet-bn-s0", "mae-vit-bn-s0")
RATE = 1e-6
"""Of the ResNets. At a usual rate they magnify the rounding of sums: a change of the weights by a
millionth changes the loss of the fourth step by percents, on one process too. MAE has its own rate."""
NEAR = 1e-4
"""Relative difference of a loss. Sums of n terms in another order differ by about √n · 6e-8 of their
size, which is 1e-6 for the 400 of an entry of a small layer; thirty steps add as many of them."""


def tree(precision: str = "float32") -> dict[str, Any]:
    """Tiny params with three methods, and fine-tuning of the ResNet."""
    found = tiny.raw()
    found["training"]["precision"] = precision
    found["experiments"]["leaderboard"] |= {
        "methods": ["simclr", "moco", "mae"], "schemes": ["bn"], "backbones": ["resnet", "vit"],
    }  # fmt: skip
    for method in ("simclr", "moco"):
        found["methods"][method]["learning_rate"]["resnet"] = RATE
    found["evaluation"]["finetune"] = {
        "resnet": {
            "epochs": 2, "batch_size": 20, "learning_rates": [0.01], "warmup_fraction": 0.0,
            "weight_decay": 0.0, "view": "weak", "norms": "batch",
        }
    }  # fmt: skip
    return found


def cells(
    folder: Path, root: Path, stop: int | None = None, precision: str = "float32"
) -> list[Record | None]:
    """The records of the cells; with `stop` each training is interrupted after so many steps."""
    found: list[Record | None] = []
    for label in LABELS:
        task = tiny.cell(label, tree=tree(precision)).on(tiny.dataset(root))
        try:
            found.append(
                run(
                    task, root / "data/mini", Store(folder), torch.device("cpu"),
                    lambda done, *_: done != stop, 5,
                )
            )  # fmt: skip
        except Interrupted:
            found.append(None)
    return found


def check(found: list[Record | None], expected: list[Record | None]) -> None:
    """Records that are equal but for the rounding of sums."""
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert one.fingerprint == other.fingerprint
        ours, theirs = one.result.model_dump(), other.result.model_dump()
        assert ours.keys() == theirs.keys()
        assert ours["parameters"] == theirs["parameters"]
        assert ours["flops_per_step"] == pytest.approx(theirs["flops_per_step"], rel=0.02)
        assert ours["curves"]["step"] == theirs["curves"]["step"]
        assert ours["curves"]["loss"] == pytest.approx(theirs["curves"]["loss"], rel=NEAR)
        assert ours["metrics"].keys() == theirs["metrics"].keys()
        for key, value in theirs["metrics"].items():
            if isinstance(value, float) and ".linear" not in key:  # which chooses a penalty
                # An image at the border of two classes may change its class.
                assert ours["metrics"][key] == pytest.approx(value, abs=1 / 40), key


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.project(tmp_path_factory.mktemp("ranks") / "project", tree())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, root: Path) -> list[Record | None]:
    folder = tmp_path_factory.mktemp("alone")
    return list(ranks.run(1, folder, cells, folder / "store", root)[0])


def test_two_processes_give_the_record_of_one(
    tmp_path: Path, root: Path, alone: list[Record | None]
) -> None:
    first, second = ranks.run(2, tmp_path, cells, tmp_path / "store", root)
    check(first, alone)
    assert [one and one.environment for one in first] == [
        one and one.environment | {"devices": 2} for one in alone
    ]
    # Rank 0 alone writes, and what it writes is what it returns.
    assert second == first
    kept = Store(tmp_path / "store")
    assert [kept.record(one.fingerprint) for one in first] == first


def test_a_step_in_bfloat16_is_shared_too(tmp_path: Path, root: Path) -> None:
    found = [
        ranks.run(size, tmp_path, cells, tmp_path / str(size), root, None, "bfloat16")[0]
        for size in (1, 2)
    ]
    for one, two in zip(*found, strict=True):
        assert one
        assert two
        ours, theirs = (record.result.curves["loss"] for record in (two, one))
        # A bfloat16 has 8 bits, and each activation is rounded to one.
        assert ours == pytest.approx(theirs, rel=2**-6)
        assert ours != theirs


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_either_goes_on_from_the_checkpoint_of_the_other(
    tmp_path: Path, root: Path, alone: list[Record | None], before: int, after: int
) -> None:
    stopped = ranks.run(before, tmp_path, cells, tmp_path / "store", root, 17)
    assert stopped == [[None] * len(LABELS)] * before
    found, *_ = ranks.run(after, tmp_path, cells, tmp_path / "store", root)
    check(found, alone)
    devices = 2 if before == after else "1 to 2"
    assert [one.environment["devices"] for one in found] == [devices] * len(LABELS)
    log = Store(tmp_path / "store").run_log(found[0].fingerprint)
    assert log.resumed_at_step == 17
    if before == after:
        whole, *_ = ranks.run(2, tmp_path, cells, tmp_path / "whole", root)
        assert found == whole
