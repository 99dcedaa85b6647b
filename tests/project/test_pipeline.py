"""The whole path through DVC, from a fresh clone: everything is built, and built again the same."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmark.components import plugins
from benchmark.core import canonical_json
from benchmark.planning import plan, rate_table, sweep
from tests.helpers import tiny

METHODS = ["attraction", "raw-pixels"]
PLUGIN = """
from benchmark.methods.base import Method, Outcome

COMPONENT = {
    "kind": "method", "name": "attraction", "version": 1, "title": "Attraction", "views": 2,
    "sections": ["backbone"], "teacher": False, "options": {},
}


class Attraction(Method):
    def forward(self, batch):
        first, second = self.each_view(self.backbone, batch.views)
        return Outcome((first - second).square().mean(), None)


build = Attraction
"""
"""A method in a file of the user's."""

STAGES = ["data", "train", "leaderboard"]


def call(root: Path, *command: str) -> str:
    """Runs a program in the project and returns what it printed."""
    done = subprocess.run(
        command, cwd=root, env=tiny.environment() | {plugins.VARIABLE: str(root / "attraction.py")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def pipeline() -> dict[str, Any]:
    """The project's dvc.yaml for the images and methods of the tiny project."""
    yaml = YAML(typ="safe", pure=True)
    found = dict(yaml.load((tiny.PROJECT / "dvc.yaml").read_text(encoding="utf-8")))
    stages = {name: found["stages"][name] for name in STAGES}
    stages["data"]["deps"] = ["images"]
    if isinstance(stages["train"]["foreach"], list):
        stages["train"]["foreach"] = METHODS
    deps = stages["leaderboard"]["deps"]
    others = set(tiny.real()["methods"]) - set(METHODS)
    stages["leaderboard"]["deps"] = [d for d in deps if d.rsplit("/", 1)[-1] not in others]
    return found | {"stages": stages}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A git repository with the tiny project and a table of rates, and nothing built."""
    root = tmp_path_factory.mktemp("clone")
    (root / "attraction.py").write_text(PLUGIN, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(plugins.VARIABLE, str(root / "attraction.py"))
        _prepare(root)
        yield root


def _prepare(root: Path) -> None:
    tree = tiny.raw()
    tree["methods"]["attraction"] = {**tree["methods"]["simclr"], "options": {}}
    tree["experiments"] = {
        "leaderboard": {
            "methods": METHODS,
            "backbones": ["resnet"],
            "schemes": ["bn", "gn"],
            "seeds": [0, 1],
            "learning_rates": "tuned",
        }
    }
    for method in set(tree["methods"]) - set(METHODS):
        del tree["methods"][method]
    tiny.write_params(root, tree)
    tiny.draw_images(root / "images")
    shutil.copy(tiny.PROJECT / "components.json", root)
    shutil.copy(tiny.PROJECT / ".gitignore", root)
    params = tiny.params(tree)

    def train(cells: Any) -> dict[str, rate_table.Result]:
        return {cell.label: rate_table.Result("0" * 64, "done", 0.5) for cell in cells}

    table = sweep.tune(params, "leaderboard", train, lambda line: None)
    rate_table.write(rate_table.path(root, "mini", "leaderboard"), params, "leaderboard", table)
    with (root / "dvc.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(pipeline(), file)
    call(root, "git", "init", "-q")
    call(root, "dvc", "init", "-q")
    assert len(plan.cells(params, "leaderboard", rate_table.settings(table))) == 5


def everything(root: Path) -> dict[str, bytes]:
    """The bytes of what the pipeline leaves."""
    folders = [root / "results", root / "data" / "mini"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_pipeline_builds_everything_and_builds_it_again_the_same(root: Path) -> None:
    call(root, "dvc", "repro")
    lock, built = (root / "dvc.lock").read_bytes(), everything(root)
    folder = "results/mini"
    for name in (
        "leaderboard.md",
        "leaderboard.csv",
        "leaderboard.json",
        "figures/leaderboard.svg",
    ):
        assert built[f"{folder}/{name}"]
    assert len([name for name in built if name.startswith(f"{folder}/records")]) == 5
    assert "results/mini/records/leaderboard/attraction/attraction-resnet-gn-s1.json" in built

    assert "Running stage" not in call(root, "dvc", "repro")
    assert (root / "dvc.lock").read_bytes() == lock

    # A retouched title rebuilds the tables and trains nothing.
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(text.replace("tiny", "small"), encoding="utf-8")
    said = call(root, "dvc", "repro")
    assert [line for line in said.splitlines() if "Running stage" in line] == [
        "Running stage 'leaderboard':"
    ]
    assert b"small" in everything(root)[f"{folder}/leaderboard.md"]
    (root / "params.yaml").write_text(text, encoding="utf-8")

    # From nothing, as after a fresh clone: no outputs, no cache, no store, only what git has.
    versioned = {
        name: content
        for name, content in built.items()
        if name.startswith((f"{folder}/rates", f"{folder}/provenance"))
    }
    assert len(versioned) == 1 + len(METHODS)
    for gone in ("results", "data", ".dvc/cache", ".benchmark", ".dvc/tmp"):
        shutil.rmtree(root / gone, ignore_errors=True)
    for name, content in versioned.items():
        canonical_json.write(root / name, content)
    (root / "dvc.lock").write_bytes(lock)
    call(root, "dvc", "repro")
    assert (root / "dvc.lock").read_bytes() == lock
    assert everything(root) == built


def test_a_refused_stage_leaves_the_images(root: Path) -> None:
    """E.g. where the plug-in that the params name was forgotten."""
    call(root, "dvc", "repro", "data")
    folder = root / "data" / "mini"
    built, lock = {p: p.read_bytes() for p in folder.iterdir()}, (root / "dvc.lock").read_bytes()
    refused = subprocess.run(
        ["dvc", "repro", "--force", "data"], cwd=root, env=tiny.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "`--plugin FILE`" in refused.stderr
    assert {p: p.read_bytes() for p in folder.iterdir()} == built
    # What is wrong in it the stage mends.
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    call(root, "dvc", "repro", "data")
    assert {p: p.read_bytes() for p in folder.iterdir()} == built
    assert (root / "dvc.lock").read_bytes() == lock
