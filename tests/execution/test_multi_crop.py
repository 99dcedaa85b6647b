"""Cells with local views from `plan` to their records, interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.cli import parser
from benchmark.core.errors import UserError
from benchmark.execution.cell import run
from benchmark.planning.cell import Task
from benchmark.results.records import Record, Store
from benchmark.training import network
from benchmark.training.loop import Interrupted
from tests.helpers import tiny

METHODS = ("dino", "lejepa", "swav")
BACKBONES = ("resnet", "vit")
EXPERIMENT = {"backbones": list(BACKBONES), "seeds": [0], "learning_rates": "default"}


def raw(size: int = tiny.SIDE // 2) -> dict[str, Any]:
    """Tiny params with local views of three methods, beside DINO without them."""
    tree = tiny.raw()
    for method in METHODS:
        tree = tiny.multi_crop(tree, method, size)
    tree["methods"]["dino-two"] = {"extends": "dino", "views": ["strong", "strong"]}
    tree["experiments"]["crops"] = {
        "methods": [*METHODS, "dino-two"], "schemes": ["bn", "in-backbone"], **EXPERIMENT,
    }  # fmt: skip
    return tree


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.project(tmp_path_factory.mktemp("crops"), raw())


@pytest.fixture
def trained(root: Path, tmp_path: Path) -> Callable[..., Record]:
    """Trains a cell; with `last` it is stopped after this step."""

    def train(label: str, store: str = "whole", last: int | None = None) -> Record:
        task: Task = tiny.cell(label, "crops", raw()).on(tiny.dataset(root))
        return run(
            task, root / "data" / "mini", Store(tmp_path / store), torch.device("cpu"),
            lambda step, *_: step != last,
        )  # fmt: skip

    return train


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", METHODS)
def test_a_cell_is_trained_judged_and_resumed_to_the_same_record(
    method: str, backbone: str, trained: Callable[..., Record]
) -> None:
    label = f"{method}-{backbone}-bn-s0"
    whole = trained(label)
    assert whole.status == "done"
    assert all(value is not None for value in whole.result.curves["loss"])
    assert whole.result.diagnostics["sections"]["projector"]["positive_cosine"] is not None
    for last in (5, 13, 29):
        with pytest.raises(Interrupted):
            trained(label, "parts", last)
    assert trained(label, "parts").as_json() == whole.as_json()


@pytest.mark.parametrize(
    ("backbone", "scheme", "size", "said"),
    [
        ("vit", "bn", 10, r"^views of size 10: backbone vit: patch_size 4 does not divide 10×10$"),
        ("resnet", "in-backbone", 8, r"^views of size 8: norm 'in' is not defined .* 1×1 map"),
        ("resnet", "bn", 20, r"views: size is 20, expected at most the images' 16 pixels$"),
    ],
)
def test_a_view_that_the_backbone_cannot_take_is_refused(
    backbone: str, scheme: str, size: int, said: str
) -> None:
    """By the check before training, which builds every network without memory for its weights."""
    for method in ("dino-two", "dino"):
        cell = tiny.cell(f"{method}-{backbone}-{scheme}-s0", "crops", raw(size))
        with torch.device("meta"):
            if method == "dino-two":
                network.build(cell, tiny.manifest())
                continue
            with pytest.raises(UserError, match=said):
                network.build(cell, tiny.manifest())


def test_plan_refuses_a_view_larger_than_the_built_images(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_params(tmp_path, raw(20))
    monkeypatch.chdir(tmp_path)
    assert parser.main(["plan", "--experiment", "crops"]) == 0
    (tmp_path / "data").symlink_to(root / "data")
    line = tiny.refusal(capsys, "plan", "--experiment", "crops")
    assert line.endswith("views: size is 20, expected at most the images' 16 pixels")


def test_every_size_is_checked_before_any_training(root: Path, tmp_path: Path) -> None:
    """Also where the network of another recipe, with views of another size, is the same."""
    tree = raw()
    tree["views"]["odd"] = {**tree["views"]["local"], "size": 10}
    tree["methods"]["dino-odd"] = {"extends": "dino", "views": ["strong", "strong", "odd"]}
    tree["experiments"]["odd"] = {
        "methods": ["dino", "dino-odd"], "schemes": ["bn"], **EXPERIMENT, "backbones": ["vit"],
    }  # fmt: skip
    tiny.write_params(tmp_path, tree)
    (tmp_path / "data").symlink_to(root / "data")
    done = tiny.run(tmp_path, "train", "--experiment", "odd")
    assert done.returncode == 2
    assert "views of size 10: backbone vit: patch_size 4 does not divide 10×10" in done.stderr
    assert not list((tmp_path / ".benchmark").rglob("record.json"))
