"""The plug-ins that `benchmark new` writes work as they are, and are used as it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from benchmark.cli import parser
from benchmark.components import plugins
from benchmark.components.registry import FOLDERS
from benchmark.execution import local
from benchmark.norms.factory import SectionNorms
from tests.helpers import tiny, warm

TESTS = {
    "norm": "-k mine",
    "method": "-k mine-resnet-bn",
    "source": "-k mine",
    "backbone": "-k simclr-mine",
    "optimizer": "-k mine",
}
"""Of the tests that the command names, these take seconds."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a project with built images and one core of a CPU."""
    for name in (plugins.VARIABLE, "BENCHMARK_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(local, "cores", lambda: 1)
    root = tiny.project(tmp_path / "project")
    monkeypatch.chdir(root)
    return root


def written(kind: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the command prints, in blocks."""
    assert parser.main(["new", kind, "mine"]) == 0
    return capsys.readouterr().out.split("\n\n")


@pytest.mark.parametrize("kind", FOLDERS)
def test_it_trains_a_cell_as_it_is(
    here: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    block = written(kind, capsys)[2]
    tree = tiny.raw()
    for key, entries in YAML(typ="safe", pure=True).load(block).items():
        tree[key] |= entries
    grid = {"method": "simclr", "backbone": "resnet", "norm": "bn"}
    if kind in grid:
        grid[kind] = "mine"
    if kind == "optimizer":
        tree["backbones"]["resnet"]["optimizer"] = "mine"
    for recipe in tree["methods"].values():
        if "images_seen" in recipe:
            recipe["images_seen"] = 60 * tiny.BATCH
            rates = {grid["backbone"]: 0.01 if kind == "optimizer" else 0.1}
            recipe["learning_rate"] = recipe.get("learning_rate", {}) | rates
            recipe["weight_decay"] = recipe.get("weight_decay", {}) | {grid["backbone"]: 0.0}
    names = {"methods": "method", "backbones": "backbone", "schemes": "norm"}
    experiment: dict[str, Any] = {key: [grid[name]] for key, name in names.items()}
    tree["experiments"] = {"look": experiment | {"seeds": [0], "learning_rates": "default"}}
    tiny.write_params(here, tree)
    command = ["--plugin", "mine.py"]
    if kind == "source":
        assert parser.main([*command, "data", "mini"]) == 0
    assert parser.main([*command, "train", "--experiment", "look"]) == 0, capsys.readouterr().err
    (file,) = (here / "results/mini/records/look").rglob("*.json")
    record = json.loads(file.read_text(encoding="utf-8"))["record"]
    assert record["status"] == "done"
    curves = record["result"]["curves"]
    assert all(change > 0 for change in curves["relative_update.backbone"])
    # A norm alone decides how far some ten steps get.
    assert kind == "norm" or curves["loss"][-1] < curves["loss"][0]
    if kind == "source":
        # Stripes are easy, and a mix-up of images and labels would be at chance.
        assert record["result"]["metrics"]["pooled_reestimated.knn5"] > 0.9
    else:
        assert record["components"][f"{kind} mine"] == 1


@pytest.mark.parametrize("kind", FOLDERS)
def test_it_passes_the_tests_that_the_command_names(
    here: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = (x for x in written(kind, capsys)[-2].splitlines() if x.startswith("test "))
    file = next(word for word in line.split() if word.startswith("tests/"))
    assert line.split()[1] == f"{plugins.VARIABLE}=mine.py"
    environment = tiny.environment() | {plugins.VARIABLE: str(here / "mine.py")}
    done = warm.run_pytest([file, *TESTS[kind].split()], environment)
    assert done.returncode == 0, done.stdout


def test_the_norm_is_torchs_rmsnorm(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written("norm", capsys)
    x = torch.randn(3, 6, 4, 5)
    with plugins.added(["mine.py"]):
        norms = SectionNorms("backbone", {"norm": "mine"})
        found = {"map": norms.layer("map", 6)(x), "tokens": norms.layer("tokens", 5)(x)}
    expected = torch.nn.RMSNorm(6, eps=1e-5)(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(found["map"], expected)
    torch.testing.assert_close(found["tokens"], torch.nn.RMSNorm(5, eps=1e-5)(x))


def test_all_are_clean(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in FOLDERS:
        assert parser.main(["new", kind, "a-longer.name", "--out", f"my_{kind}.py"]) == 0
    files = sorted(map(str, here.glob("my_*.py")))
    assert len(files) == len(FOLDERS)
    settings = str(tiny.PROJECT / "pyproject.toml")
    for command in (
        ["ruff", "check", "--no-cache", "--config", settings, *files],
        ["ruff", "format", "--no-cache", "--check", "--config", settings, *files],
        ["mypy", "--config-file", settings, *files],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tiny.PROJECT,
            capture_output=True, text=True, check=False, env=tiny.environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


REFUSED = [
    (["norm", "bn"], "NAME is 'bn', expected a new name: this norm exists"),
    (["norm", "a b"], "NAME is 'a b', expected letters, digits"),
    (["norm", "mine", "--out", "mine.txt"], "--out is 'mine.txt', expected a Python file"),
    (["norm", "mine", "--out", "no/mine.py"], "--out is 'no/mine.py', and there is no folder no"),
    (["norm", "mine", "--out", "there.py"], "there.py exists"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_written_is_refused(
    here: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "there.py").write_text("kept", encoding="utf-8")
    assert said in tiny.refusal(capsys, "new", *arguments)
    assert [path.name for path in here.glob("*.py")] == ["there.py"]
    assert (here / "there.py").read_text(encoding="utf-8") == "kept"
    assert os.environ.get(plugins.VARIABLE) is None


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser.main(["new", "norn", "mine"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    kinds = "backbone, method, norm, optimizer, source, track"
    assert said.startswith(
        f"benchmark: unknown kind 'norn'; did you mean 'norm'? (allowed: {kinds})"
    )
    assert said.endswith("(see `uv run benchmark new --help`)\n")
