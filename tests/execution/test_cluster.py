"""Cells on a Ray cluster, whose nodes are processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.components import plugins
from benchmark.core import determinism
from benchmark.execution import cluster, node
from benchmark.execution.cell import run
from benchmark.planning.cell import Task
from benchmark.results import published as collect
from benchmark.results.records import Store
from tests.helpers import tiny
from tests.helpers.ray_cluster import Nodes

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (`uv sync --extra ray`)"
)
NODES = 3
REMOVALS = 10
SAID = "5 trained, 0 found done, 0 crashed"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that nothing was trained in; to be copied."""
    return tiny.project(tmp_path_factory.mktemp("fresh"))


@pytest.fixture
def root(fresh: Path, tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(fresh, root)
    return root


@pytest.fixture(scope="module")
def local(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after one worker of this machine has trained its leaderboard."""
    root = tmp_path_factory.mktemp("local") / "project"
    shutil.copytree(fresh, root)
    assert tiny.run(root, "train", "--jobs", "1").returncode == 0
    return root


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster of three nodes with a core each, and a head that runs no cells."""
    found = Nodes()
    try:
        for _ in range(NODES):
            found.add()
        yield found
    finally:
        found.close()


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """For commands that must not outlive their test."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        tiny.end(process)


def trained(root: Path) -> dict[str, bytes]:
    """The final states and the checksums of first steps in a project's store."""
    return {path.name: path.read_bytes() for path in (root / ".benchmark" / "trained").iterdir()}


def tracebacks(root: Path) -> str:
    """Of the crashed cells of a project."""
    logs = (path.read_text() for path in (root / ".benchmark").rglob("run.json"))
    return "\n".join(filter(None, (json.loads(log).get("traceback") for log in logs)))


@needs_ray
@pytest.mark.slow
def test_a_cluster_makes_the_store_of_one_machine(nodes: Nodes, root: Path, local: Path) -> None:
    """Records, final states, run logs; a second command finds all done."""
    done = tiny.run(root, "train", "--on", nodes.address, "--shared", ".")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == SAID
    assert tiny.published(root) == tiny.published(local)
    assert trained(root) == trained(local)
    assert len(list((root / ".benchmark").rglob("run.json"))) == 5
    # Of the shared folder nothing is left but its schema.
    assert not [path for path in (root / "cells").rglob("*") if path.is_file()]
    assert not list((root / "trained").iterdir())
    again = tiny.run(root, "train", "--on", nodes.address)
    assert again.stderr == "0 trained, 5 found done, 0 crashed\n"


@needs_ray
@pytest.mark.slow
def test_nodes_lost_at_random_moments_cost_no_cell(
    nodes: Nodes, fresh: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """A node is killed and another one comes in its place, ten times."""
    tree = tiny.raw()
    tree["experiments"]["leaderboard"]["seeds"] = [0, 1, 2]
    reference = tmp_path / "local"
    shutil.copytree(fresh, reference)
    tiny.write_params(reference, tree)
    assert tiny.run(reference, "train", "--jobs", "1").returncode == 0
    dice, there, killed, number = random.Random(0), [nodes.add() for _ in range(2)], 0, 0
    while killed < REMOVALS:
        number += 1
        root = tmp_path / str(number)
        shutil.copytree(fresh, root)
        tiny.write_params(root, tree)
        process = tiny.begin(root, "train", "--on", nodes.address)
        started.append(process)
        while process.poll() is None:
            time.sleep(dice.uniform(0, 12))
            if process.poll() is None and killed < REMOVALS:
                nodes.remove(there.pop(0))
                there.append(nodes.add())
                killed += 1
            process_ended = process.poll() is not None
            if killed >= REMOVALS and not process_ended:
                process.wait(300)
        assert process.stderr
        said = process.stderr.read()
        assert process.returncode == 0, said + tracebacks(root)
        assert said.splitlines()[-1] == "13 trained, 0 found done, 0 crashed"
        assert tiny.published(root) == tiny.published(reference)


def long_cell(root: Path) -> Task:
    return tiny.cell("rotation-resnet-bn-s0", "long").on(tiny.dataset(root))


@pytest.fixture(scope="module")
def uninterrupted(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The record of the long cell."""
    task, store = long_cell(fresh), Store(tmp_path_factory.mktemp("uninterrupted"))
    made = run(task, fresh / "data" / "mini", store, determinism.start("cpu"), lambda *_: True)
    return collect.document(task.cell, made)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_driver_that_ends_leaves_nothing_running_and_its_cell_resumes(
    nodes: Nodes,
    root: Path,
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    how: str,
    uninterrupted: str,
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    task = long_cell(root)
    checkpoint = Store(shared).checkpoint(task.fingerprint)
    command = "train", "--experiment", "long", "--on", nodes.address, "--shared", str(shared)
    process = tiny.begin(root, *command)
    started.append(process)
    tiny.wait_for(lambda: tiny.steps_saved(checkpoint) > 0 or process.poll() is not None)
    before = tiny.steps_saved(checkpoint)
    process.send_signal(getattr(signal, how))
    _, said = process.communicate(timeout=60)
    if how != "SIGKILL":
        assert process.returncode == 130, said
        saved = tiny.steps_saved(checkpoint)
        assert (
            f"  mini/long/rotation-resnet-bn-s0: {saved} of {tiny.LONG} steps are saved\n" in said
        )
        assert "Traceback" not in said
    tiny.wait_for(lambda: not nodes.workers(), 40)
    assert tiny.steps_saved(checkpoint) >= before > 0

    done = tiny.run(root, *command)
    assert done.returncode == 0, done.stderr
    log = tiny.store(root).run_log(task.fingerprint)
    assert (log.resumed_at_step or 0) >= before
    assert not checkpoint.exists()
    (found,) = tiny.published(root, "long").values()
    assert found.decode() == uninterrupted


@needs_ray
@pytest.mark.slow
def test_two_drivers_at_once_train_nothing_twice(
    nodes: Nodes, root: Path, local: Path, started: list[subprocess.Popen[str]]
) -> None:
    command = "train", "--on", nodes.address, "--jobs", "1"
    started.extend(tiny.begin(root, *command) for _ in range(2))
    last = []
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        last.append([int(word) for word in said.splitlines()[-1].split() if word.isdigit()])
    assert [sum(counts) for counts in last] == [5, 5]
    assert sum(count[0] for count in last) == 5
    assert tiny.published(root) == tiny.published(local)


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_costs_its_cell_only(
    nodes: Nodes, root: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """With the record of one machine."""
    tree = tiny.raw()
    tree["experiments"]["long"]["methods"] = ["rotation", "raw-pixels"]
    tiny.write_params(root, tree)
    shared = tmp_path / "shared"
    shared.mkdir()
    task = tiny.cell("rotation-resnet-bn-s0", "long", tree).on(tiny.dataset(root))
    checkpoint = Store(shared).checkpoint(task.fingerprint)
    process = tiny.begin(
        root, "train", "--experiment", "long", "--on", nodes.address, "--shared", str(shared),
        "--jobs", "1",
    )  # fmt: skip
    started.append(process)
    tiny.wait_for(lambda: tiny.steps_saved(checkpoint) > 0 or process.poll() is not None)
    there = nodes.workers()
    for pid, parent in there.items():
        if parent in there:
            os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "1 trained, 0 found done, 1 crashed" in said
    tiny.check_killed_worker(tiny.published(root, "long"))


@needs_ray
@pytest.mark.slow
def test_a_node_whose_folder_is_gone_trains(nodes: Nodes, root: Path, tmp_path: Path) -> None:
    """Somebody removes the folder in which `ray start` was run."""
    folder = tmp_path / "started-here"
    folder.mkdir()
    number = nodes.add(folder=folder, num_cpus=2)
    folder.rmdir()
    try:
        # Only that node has two cores.
        done = tiny.run(root, "train", "--on", nodes.address, "--cores", "2")
    finally:
        nodes.remove(number)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == SAID


@needs_ray
@pytest.mark.slow
def test_a_node_whose_fork_server_dies_trains(nodes: Nodes, root: Path, tmp_path: Path) -> None:
    """Each second one as it starts; if all die, the cell is a crash."""
    folder, starts, none = tmp_path / "first", tmp_path / "starts", tmp_path / "none"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"""
import os, pathlib, sys
if "multiprocessing.forkserver" in " ".join(sys.orig_argv):
    with open({str(starts)!r}, "a") as file:
        print(file=file, flush=True)
    if os.path.getsize({str(starts)!r}) % 2 or os.path.exists({str(none)!r}):
        os.kill(os.getpid(), 9)
"""
    )
    number = nodes.add(folder, num_cpus=4)
    # Only that node has two cores for a cell; it has them for two at once.
    command = "train", "--on", nodes.address, "--cores", "2"
    try:
        done = tiny.run(root, *command)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == SAID
        assert starts.stat().st_size > 1
        none.touch()
        shutil.rmtree(root / ".benchmark")
        shutil.rmtree(root / "results")
        lost = tiny.run(root, *command, "--method", "raw-pixels")
    finally:
        nodes.remove(number)
    assert lost.returncode == 1, lost.stderr
    assert "raw-pixels-pixels-none-s0: its node was lost 11 times" in lost.stderr


@needs_ray
@pytest.mark.slow
def test_nodes_that_cannot_run_a_cell_are_refused(nodes: Nodes, root: Path, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        done = tiny.run(root, "train", "--on", nodes.address, *options)
        assert done.returncode == 2, done.stderr
        assert not list(root.rglob("record.json"))
        (line,) = done.stderr.splitlines()
        return line

    needs = "benchmark: a cell needs 64 cores and 0 GPUs (--cores, --gpus), and no node"
    assert refused("--cores", "64").startswith(needs)
    assert "1 core and 0.5 GPUs" in refused("--gpus", "0.5")
    assert "1 core and 1 GPU " in refused("--device", "cuda")

    (tmp_path / "old" / "timm-0.0.1.dist-info").mkdir(parents=True)
    metadata = tmp_path / "old" / "timm-0.0.1.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: timm\nVersion: 0.0.1\n", encoding="utf-8")
    number = nodes.add(tmp_path / "old")
    try:
        line = refused()
    finally:
        nodes.remove(number)
    assert line.startswith(f"benchmark: node {nodes.address.split(':')[0]}: timm is 0.0.1, and ")

    tree = tiny.changed(tiny.raw(), "schemes/bn", {"norm": "gn", "groups": 3})
    tiny.write_params(root, tree)
    assert "groups 3 do not divide" in refused()


def test_what_a_node_lacks(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version, the program's source, the images and the shared folder."""
    here = node.versions(node.packages())
    assert here["torch"] == determinism.environment(determinism.start("cpu"))["torch"]
    assert {"python", "numpy", "timm", "ray", node.PROJECT} <= set(here)
    data, sha256 = str(fresh / "data" / "mini"), tiny.dataset(fresh)
    (tmp_path / "token").touch()
    assert node.lacks(here, {data: sha256}, str(tmp_path), "token") is None
    other = node.lacks({**here, "torch": "1.0"}, {}, None, "")
    assert other is not None
    assert other.startswith(f"torch is {here['torch']}, and this command has 1.0: ")
    source = node.lacks({**here, node.PROJECT: "0.1.0 (source 0)"}, {}, None, "")
    assert source is not None
    assert source.startswith(f"{node.PROJECT} is {here[node.PROJECT]}, and ")
    images = "does not hold the built images"
    assert images in str(node.lacks(here, {data: "0" * 64}, None, ""))
    assert images in str(node.lacks(here, {str(tmp_path): sha256}, None, ""))
    assert "is not the folder" in str(node.lacks(here, {}, str(tmp_path), "another"))
    assert "is not the folder" in str(node.lacks(here, {}, str(tmp_path / "no"), "token"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--cores", "1"], "--cores is '1', and only a cluster takes it: add --on"),
        (["--shared", "x"], "--shared is 'x', and only a cluster takes it: add --on"),
        (["--on", "auto", "--cores", "0"], "--cores is 0, expected a number above 0"),
        (["--on", "auto", "--cores", "many"], "--cores is 'many', expected a number"),
        (["--on", "auto", "--gpus", "2"], "--gpus is 2, expected 0 to 1: a cell trains on one GPU"),
        (["--on", "auto", "--gpus", "nan"], "--gpus is 'nan', expected a number"),
        (
            ["--on", "auto", "--device", "cuda", "--gpus", "0"],
            "--device is cuda and --gpus is 0: give each cell a GPU or a part of one",
        ),
        (
            ["--on", "auto", "--device", "cpu", "--gpus", "0.5"],
            "--device is cpu and --gpus is 0.5: leave out one of them",
        ),
        (["--on", "auto", "--shared", "no"], "--shared is 'no', and there is no such folder"),
        (
            ["--on", "auto", "--devices", "2"],
            "--devices is 2, and a cluster does not take it: see --cores and --gpus",
        ),
        (["--on", "auto", "--jobs", "0"], "--jobs is '0', expected auto or a number from 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    fresh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    options: list[str], line: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(fresh)
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    assert tiny.refusal(capsys, "train", *options) == f"benchmark: {line}"


def test_without_ray_the_command_that_installs_it_is_named(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable names a cluster as the option does, and the option wins."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "ray" else real(name, *more),
    )
    monkeypatch.chdir(root)
    monkeypatch.setenv("BENCHMARK_ON", "10.0.0.1:6379")
    said = "needs Ray, which is not installed: `uv sync --extra ray`"
    assert tiny.refusal(capsys, "train") == f"benchmark: --on 10.0.0.1:6379 {said}"
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/learning_rates", "tuned")
    tiny.write_params(root, tree)
    assert tiny.refusal(capsys, "sweep", "--on", "auto") == f"benchmark: --on auto {said}"


@needs_ray
def test_an_address_without_a_cluster_is_refused(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    for address, said in {
        closed: "no Ray cluster answers at",
        "here": "--on is 'here', expected",
    }.items():
        done = tiny.run(root, "train", "--on", address)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"benchmark: {said}")


@needs_ray
@pytest.mark.slow
def test_a_port_that_is_silent_is_refused(root: Path) -> None:
    """It takes connections, as another program's does, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = tiny.run(root, "train", "--on", address)
    assert done.returncode == 2, done.stderr
    assert done.seconds < 3 * cluster.ANSWER_SECONDS
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"benchmark: no Ray cluster answers at {address} within 10 s")


def test_a_claim_is_one_commands_until_it_ends(tmp_path: Path) -> None:
    """Locks of one process do not exclude each other, so the other command is a process."""
    keys = ["ab" * 32, "cd" * 32]
    held = cluster.Claims(Store(tmp_path))
    assert held.take(keys[0])
    script = (
        "import sys; from pathlib import Path\n"
        "from benchmark.execution.cluster import Claims\n"
        "from benchmark.results.records import Store\n"
        "held = Claims(Store(Path(sys.argv[1])))\n"
        "print([held.take(key) for key in sys.argv[2:]])\n"
    )

    def other() -> Any:
        command = [sys.executable, "-c", script, str(tmp_path), *keys]
        return subprocess.run(
            command, env=tiny.environment(), check=True, capture_output=True, text=True
        ).stdout.strip()

    assert other() == "[False, True]"
    held.release(keys[0])
    assert other() == "[True, True]"
    held.take(keys[1])
    held.close()
    assert other() == "[True, True]"
