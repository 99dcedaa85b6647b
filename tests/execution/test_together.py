"""Cells that several real processes train together: in the pool, and as torchrun starts them."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.planning.cell import Task
from tests.helpers import tiny

SIMCLR = "simclr-resnet-bn-s0"
LONG = "rotation-resnet-bn-s0"
PIXELS = "raw-pixels-pixels-none-s0"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def started(root: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Commands to clean up, in a project without a store."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        tiny.end(process)
    if (root / ".benchmark").exists():
        (root / ".benchmark").rename(root / f"store-{len(list(root.iterdir()))}")


def task(root: Path, label: str = SIMCLR, experiment: str = "leaderboard") -> Task:
    return tiny.cell(label, experiment).on(tiny.dataset(root))


def launch(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts `benchmark` by torchrun, as two processes."""
    return subprocess.Popen(
        [sys.executable, *TORCHRUN, "-m", "benchmark", *arguments],
        cwd=root, env=tiny.environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def record(root: Path) -> dict[str, Any]:
    found = tiny.store(root).record(task(root).fingerprint)
    assert found is not None
    return dict(found.as_json())


def test_two_processes_train_a_cell_however_they_are_started(
    root: Path, started: list[subprocess.Popen[str]]
) -> None:
    """Both ways give one record, which is near that of one process."""
    assert tiny.run(root, "train", "--cell", SIMCLR).returncode == 0
    alone = record(root)
    (root / ".benchmark").rename(root / "alone")
    done = tiny.run(root, "train", "--cell", SIMCLR, "--cell", PIXELS, "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert "2 trained, 0 found done, 0 crashed" in done.stderr
    together = record(root)
    assert together["environment"] == {**alone["environment"], "devices": 2}
    (root / ".benchmark").rename(root / "together")
    process = launch(root, "train", "--cell", SIMCLR, "--cell", PIXELS)
    started.append(process)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert record(root) == together
    # Rank 0 alone prints.
    assert len(out.splitlines()) == 2
    assert said.count("2 cells to train, 0 already done") == 1
    assert said.count("2 trained, 0 found done, 0 crashed") == 1
    # The first step; rounding grows with the steps at this learning rate.
    first = [entry["result"]["curves"]["loss"][0] for entry in (alone, together)]
    assert math.isclose(*first, rel_tol=1e-5)


@pytest.mark.parametrize("launched", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stop_is_saved_and_resumed(
    root: Path, started: list[subprocess.Popen[str]], launched: bool
) -> None:
    """By what one process, or other numbers of them, would go on from."""
    fingerprint = task(root, LONG, "long").fingerprint
    checkpoint = tiny.store(root).checkpoint(fingerprint)
    if launched:
        process = launch(root, "train", "--experiment", "long")
    else:
        process = tiny.begin(root, "train", "--experiment", "long", "--devices", "2")
    started.append(process)
    tiny.wait_for(lambda: tiny.steps_saved(checkpoint) > 0 or process.poll() is not None)
    saved = tiny.steps_saved(checkpoint)
    assert process.poll() is None, process.communicate()
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (1 if launched else 130), said
    assert f"{tiny.steps_saved(checkpoint)} of {tiny.LONG} steps are saved" in said
    assert tiny.steps_saved(checkpoint) > saved
    tiny.wait_for(lambda: not tiny.group(process.pid), seconds=20)


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_costs_the_cell(
    root: Path, started: list[subprocess.Popen[str]], killed: int
) -> None:
    fingerprint = task(root, LONG, "long").fingerprint
    process = tiny.begin(root, "train", "--experiment", "long", "--devices", "2")
    started.append(process)
    checkpoint = tiny.store(root).checkpoint(fingerprint)
    tiny.wait_for(lambda: tiny.steps_saved(checkpoint) > 0)
    workers = sorted(tiny.workers(process.pid))
    assert len(workers) == 2
    os.kill(workers[killed], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "0 trained, 0 found done, 1 crashed" in said
    found = tiny.store(root).last(fingerprint)
    assert found is not None
    assert found.status == "crashed"
    assert f"worker {killed} of the cell died (signal SIGKILL" in (found.result.cause or "")


def test_options_for_processes_of_its_own_are_refused_under_torchrun(
    root: Path, started: list[subprocess.Popen[str]]
) -> None:
    process = launch(root, "train", "--cell", SIMCLR, "--jobs", "3")
    started.append(process)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    lines = [line for line in said.splitlines() if line.startswith("benchmark: ")]
    assert lines == ["benchmark: --jobs is for processes that this command starts, not torchrun"]


@pytest.mark.parametrize(
    ("cell", "devices", "line"),
    [
        (PIXELS, "4000", "--devices is 4000, expected at most "),
        (PIXELS, "0", "--devices is '0', expected a number from 1"),
        (SIMCLR, "3", "training: batch_size is 32, expected a multiple of the 3 devices "),
    ],
)
def test_devices_that_cannot_share_a_cell_are_refused(
    root: Path, cell: str, devices: str, line: str
) -> None:
    done = tiny.run(root, "train", "--cell", cell, "--devices", devices)
    assert done.returncode == 2
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"benchmark: {line}")
