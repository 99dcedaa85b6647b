"""`python -m tools.gpu_day` on a CPU: every part, and what is left when it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny, warm
from tools.gpu_day import at_once
from tools.gpu_day.day import outcomes
from tools.speed import cases
from tools.speed.pipelines import Bare

CPU = torch.device("cpu")


def day(root: Path, out: Path, *options: str, **environment: str) -> warm.Ended:
    given = ["--tiny", "--device", "cpu", "--out", str(out), "--minutes", "60", *options]
    return warm.call(
        "tools.gpu_day.__main__:main", [given], root, tiny.environment() | environment, 600
    )


def document(out: Path) -> dict[str, Any]:
    found = json.loads((out / "figures" / "day.json").read_text(encoding="utf-8"))
    return dict(found)


def test_the_cells_of_the_day_are_adopted_elsewhere(tmp_path: Path) -> None:
    there, out = tiny.project(tmp_path / "there"), tmp_path / "out"
    here = shutil.copytree(there, tmp_path / "here")
    done = day(there, out, "--skip", "speed")
    assert done.returncode == 0, done.stderr
    parts = document(out)["parts"]
    assert parts["tests"]["state"] == "skipped"
    assert "needs a CUDA GPU" in parts["tests"]["why"]
    assert parts["speed"] == {"state": "skipped", "why": "by --skip"}
    assert parts["cells"]["state"] == "done"
    assert sum(parts["cells"]["records"].values()) == 5
    adopted = tiny.run(here, "adopt", str(out))
    assert adopted.stdout.splitlines()[-1] == "5 adopted", adopted.stderr
    assert tiny.published(here) == tiny.published(there)


@pytest.mark.slow
def test_rates_that_were_tuned_away_are_chosen_here_from_the_same_trials(tmp_path: Path) -> None:
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/learning_rates", "tuned")
    tree["experiments"]["leaderboard"] |= {"methods": ["simclr"], "schemes": ["bn"]}
    there, out = tiny.project(tmp_path / "there", tree), tmp_path / "out"
    here = shutil.copytree(there, tmp_path / "here")
    done = day(there, out, "--skip", "tests,speed")
    assert done.returncode == 0, done.stderr
    first = tiny.run(here, "adopt", str(out))
    assert "1 cell left: their learning rates have not been chosen here" in first.stdout
    tuned = tiny.run(here, "sweep", "--device", "cpu")
    assert tuned.returncode == 0, tuned.stderr
    assert "0 trained, 5 found done" in tuned.stderr
    table = "results/mini/rates/leaderboard.json"
    assert (here / table).read_bytes() == (there / table).read_bytes()
    second = tiny.run(here, "adopt", str(out))
    assert second.stdout.splitlines()[-1] == "1 adopted", second.stderr
    assert tiny.published(here) == tiny.published(there) != {}


def test_a_day_that_is_stopped_leaves_whole_records_and_no_process(tmp_path: Path) -> None:
    root, out = tiny.project(tmp_path / "there"), tmp_path / "out"
    tree = tiny.raw()
    tree["experiments"]["leaderboard"]["methods"] = ["raw-pixels", "rotation"]
    tiny.write_params(root, tree)
    here = shutil.copytree(root, tmp_path / "here")
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.gpu_day", "--tiny", "--device", "cpu", "--out", str(out),
         "--skip", "tests,speed", "--at-once", "1"],
        cwd=root, env=tiny.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        tiny.wait_for(lambda: list(out.glob("cells/*/checkpoint.safetensors")))
    finally:
        children = _below(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 130
    assert children
    tiny.wait_for(lambda: not any(map(_lives, children)), 30)  # a killed process needs a moment
    assert document(out)["parts"]["cells"]["state"] == "running"
    assert "running" in (out / "README.md").read_text(encoding="utf-8")
    adopted = tiny.run(here, "adopt", str(out))
    assert adopted.returncode == 0, adopted.stderr
    assert "cell left: not finished" in adopted.stdout
    assert (
        adopted.stdout.splitlines()[-1] == f"{len(list(out.glob('cells/*/record.json')))} adopted"
    )


def _below(pid: int) -> list[int]:
    """Every process below one."""
    own = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return own + [further for one in own for further in _below(one)]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_time_that_is_up_starts_nothing(tmp_path: Path) -> None:
    root, out = tiny.project(tmp_path / "there"), tmp_path / "out"
    done = day(root, out, "--skip", "tests", "--minutes", "0.01")
    assert done.returncode == 0, done.stderr
    parts = document(out)["parts"]
    assert parts["speed"]["state"] == parts["cells"]["state"] == "stopped"
    assert all("not done" in row["why"] for row in parts["speed"]["at_once"])
    assert not (out / "cells").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--minutes", "0"], "--minutes is 0"),
        (["--skip", "tets"], "did you mean 'tests'"),
        (["--experiment", "leaderbord"], "did you mean 'leaderboard'"),
        (["--track", "minni"], "did you mean 'mini'"),
        (["--device", "abacus"], "abacus"),
        (["--at-once", "0"], "--at-once is '0'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_one_line(
    tmp_path: Path, options: list[str], said: str
) -> None:
    tiny.write_params(tmp_path, tiny.raw())
    done = day(tmp_path, tmp_path / "out", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_speed_is_measured_also_without_a_library(tmp_path: Path) -> None:
    root, out = tiny.project(tmp_path / "there"), tmp_path / "out"
    absent = tmp_path / "absent" / "kornia"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError\n")
    path = f"{absent.parent}{os.pathsep}{tiny.PROJECT}"
    done = day(root, out, "--skip", "tests,cells", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    part = document(out)["parts"]["speed"]
    assert part["state"] == "done", part
    assert part["cases"] == {"mini-resnet": "done"}
    (file,) = (out / "figures" / "speed").glob("*.json")
    (entry,) = json.loads(file.read_text(encoding="utf-8"))["training"]
    assert set(entry["images_per_second"]) == {"ours", "lightly", "bare"}
    assert "kornia is not installed" in entry["missing"]["kornia"]
    assert "kornia is not installed" in file.with_suffix(".md").read_text(encoding="utf-8")
    rates = [row["cells_per_hour"] for row in part["at_once"]]
    assert len(rates) == 3
    assert min(rates) > 0
    assert "| mini-resnet | processes | 2 | no |" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [["-p", "no:xdist"], ["-n", "2", "--dist", "load"]], ids=str)
def test_the_outcome_of_each_test_is_read_from_the_log(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [0, 1, 2])\n"
        "def test_n(n):\n    assert n\n"
        "@pytest.fixture\ndef broken():\n    raise ValueError\n"
        "def test_broken(broken):\n    pass\n"
    )
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-o", "addopts=", *options, "test_it.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert outcomes(said) == {
        "test_it.py::test_n[0]": "failed",
        "test_it.py::test_n[1]": "passed",
        "test_it.py::test_n[2]": "passed",
        "test_it.py::test_broken": "error",
    }


def test_a_batched_step_is_the_step_of_each_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "IMAGES", 600)
    case = cases.MINI_RESNET
    alone = Bare(case, tiny.PROJECT, CPU, 0)
    both = at_once.batched(case, tiny.PROJECT, CPU, 2)
    for contestant in (alone, both):
        for _ in range(2):
            contestant.optimizer.zero_grad()
            contestant.loss(next(contestant.views())).backward()
            contestant.optimizer.step()
    for name, expected in alone.method.named_parameters():
        for copy in both.parameters[name]:
            torch.testing.assert_close(copy, expected.data, atol=1e-5, rtol=1e-4)
