"""A loss that is not finite and a lack of memory cost a cell its number and nobody else anything."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.components import plugins
from tests.helpers import tiny
from tests.helpers.warm import Ended

FIRST_NAN = 7
METHOD = """
import torch
from benchmark.methods.base import Method, Outcome

COMPONENT = {{
    "kind": "method", "name": "{name}", "version": 1, "title": "{name}", "views": 2,
    "sections": ["backbone"], "teacher": False, "options": {{}},
}}


class Attraction(Method):
    def forward(self, batch):
        first, second = self.each_view(self.backbone, batch.views)
        loss = (first - second).square().mean()
        if batch.draw.step == {step}:
            {fault}
        return Outcome(loss, None)


build = Attraction
"""
FAULTS = {
    "planted-nan": "loss = loss * float('nan')",
    "planted-infinity": "loss = loss / 0.0",
    "out-of-gpu": "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 3 GiB')",
    "out-of-python": "raise MemoryError",
    # More than any machine has, so that the allocator itself refuses.
    "out-of-host": "torch.empty(2**62, dtype=torch.uint8)",
    "broken": "raise ValueError('a bug')",
}
OUT = [name for name in FAULTS if name.startswith("out-")]


def tree() -> dict[str, Any]:
    found = tiny.raw()
    for name in FAULTS:
        found["methods"][name] = {**found["methods"]["simclr"], "options": {}}
    found["experiments"] = {
        "leaderboard": {
            **found["experiments"]["leaderboard"],
            "methods": [*FAULTS, "simclr", "raw-pixels"],
            "schemes": ["bn"],
        }
    }
    return found


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Ended]:
    """A project in which all but two of the cells fail, and what `benchmark train` said."""
    root = tmp_path_factory.mktemp("project")
    files = []
    for name, fault in FAULTS.items():
        files.append(root / f"{name}.py")
        text = METHOD.format(name=name, fault=fault, step=FIRST_NAN - 1)
        files[-1].write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        with plugins.added([str(file) for file in files]):
            tiny.project(root, tree())
            patch.setenv(plugins.VARIABLE, plugins.os.environ[plugins.VARIABLE])
        named = [part for file in files for part in ("--plugin", str(file))]
        done = tiny.run(root, *named, "train", "--jobs", "2")
        table = tiny.run(root, *named, "leaderboard")
        assert table.returncode == 0, table.stderr
    return root, done


def record(root: Path, method: str) -> dict[str, Any]:
    backbone = "pixels-none" if method == "raw-pixels" else "resnet-bn"
    found = tiny.published(root)[f"{method}/{method}-{backbone}-s0.json"]
    return dict(json.loads(found)["record"])


def row(root: Path, method: str) -> dict[str, str]:
    """A method's line of the table."""
    with (root / "results" / "mini" / "leaderboard.csv").open(encoding="utf-8") as file:
        return next(line for line in csv.DictReader(file) if line["method"] == method)


def test_the_other_cells_go_on(trained: tuple[Path, Ended]) -> None:
    root, done = trained
    assert "7 trained, 0 found done, 1 crashed" in done.stderr
    for method in ("simclr", "raw-pixels"):
        assert record(root, method)["status"] == "done"
        assert float(row(root, method)["knn_percent"]) > 0


@pytest.mark.parametrize("method", ["planted-nan", "planted-infinity"])
def test_a_planted_nan_is_a_divergence_at_its_step(
    trained: tuple[Path, Ended], method: str
) -> None:
    found = record(trained[0], method)
    assert found["status"] == "diverged"
    assert found["result"]["first_non_finite_step"] == FIRST_NAN
    assert found["result"]["metrics"] == {}


@pytest.mark.parametrize("method", OUT)
def test_a_lack_of_memory_is_a_result(trained: tuple[Path, Ended], method: str) -> None:
    found = record(trained[0], method)
    assert found["status"] == "out-of-memory"
    assert found["result"]["metrics"] == {}


def test_a_bug_is_a_crash_with_its_cause(
    trained: tuple[Path, Ended],
) -> None:
    found = record(trained[0], "broken")
    assert found["status"] == "crashed"
    assert found["result"]["cause"] == "ValueError: a bug"


def test_a_crash_fails_the_command_after_all_else_is_published(
    trained: tuple[Path, Ended],
) -> None:
    root, done = trained
    assert done.returncode == 1
    assert "mini/leaderboard/broken-resnet-bn-s0" in done.stderr.splitlines()[-1]
    assert len(tiny.published(root)) == len(FAULTS) + 2


@pytest.mark.parametrize("method", FAULTS)
def test_the_table_has_the_cell_and_no_number(trained: tuple[Path, Ended], method: str) -> None:
    root, _ = trained
    assert row(root, method)["knn_percent"] == ""
    table = json.loads((root / "results" / "mini" / "leaderboard.json").read_text("utf-8"))
    (line,) = [line for line in table["rows"] if line["method"] == method]
    assert [entry["knn_reestimated"] for entry in line["records"]] == [None]
    assert method in (root / "results" / "mini" / "leaderboard.md").read_text("utf-8")
