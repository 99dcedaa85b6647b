"""Killed at any moment and started again, a run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import forked, slow, tiny
from tests.helpers.forked import Runs

KILLS = slow.counts(6, 25)
"""In a process that has imported torch; there are some more below."""


@pytest.fixture(scope="module")
def server() -> Iterator[Runs]:
    with forked.runs() as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(
    server: Runs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], int, float]:
    """What an undisturbed run leaves, how many changes it makes to folders, and its seconds."""
    root = forked.fresh(tmp_path_factory.mktemp("undisturbed") / "project")
    code, seconds = server.go(root, watched=True)
    assert code == 0, forked.said(root)
    changes = root.with_name("said.changes").read_text(encoding="utf-8").splitlines()
    found = forked.left(root)
    assert len([name for name in found if name.startswith("results/mini/records")]) == 3
    assert len([name for name in found if name.endswith("record.json")]) == 3
    assert {"results/mini/leaderboard.md", "data/mini/manifest.json"} <= set(found)
    return found, len(changes), seconds


def phase(there: dict[str, bytes]) -> str:
    """How far a run has come, by what it has left."""
    if "results/mini/leaderboard.md" in there:
        return "tables"
    if any(name.startswith("results/mini/records") for name in there):
        return "publication"
    if any(name.endswith("record.json") for name in there):
        return "records"
    return "training" if "data/mini/manifest.json" in there else "images"


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("at", ["a change to a folder", "any time"])
def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(
    server: Runs, undisturbed: tuple[dict[str, bytes], int, float], tmp_path: Path, at: str,
    kills: int,
) -> None:  # fmt: skip
    """A run is killed and started again until it ends, and then another one begins.

    Half of the kills come just before a file or folder is made, moved or removed, so that every step
    of a write is met; the others come after a random time.
    """
    expected, changes, whole = undisturbed
    dice, met = random.Random(at), Counter[str]()
    root, number = forked.fresh(tmp_path / "0" / "project"), 0
    while met.total() < kills:
        if at == "any time":
            code, _ = server.go(root, seconds=dice.uniform(0.0, whole / 2))
        else:
            code, _ = server.go(root, change=dice.randrange(changes // 3))
        there = forked.left(root)
        # Whatever the moment: what is there is whole.
        for name, content in there.items():
            assert content == expected[name], name
        if code == 0:
            assert there == expected
            number += 1
            root = forked.fresh(tmp_path / str(number) / "project")
            continue
        assert code == -signal.SIGKILL, forked.said(root)
        met[phase(there)] += 1
    code, _ = server.go(root)
    assert code == 0, forked.said(root)
    assert forked.left(root) == expected
    if at != "any time":  # the others depend on the machine's speed
        assert len(met) >= min(3, kills // 3)


@pytest.mark.parametrize("share", [0.04, 0.3, 0.64, 0.8, 0.9, 0.98])
def test_one_kill_and_one_restart_are_enough(
    server: Runs, undisturbed: tuple[dict[str, bytes], int, float], tmp_path: Path, share: float
) -> None:
    """In every phase: images, checkpoints, records, publication and tables."""
    expected, changes, _ = undisturbed
    root = forked.fresh(tmp_path / "project")
    assert server.go(root, change=int(share * changes))[0] == -signal.SIGKILL
    assert forked.left(root) != expected
    code, _ = server.go(root)
    assert code == 0, forked.said(root)
    assert forked.left(root) == expected


def ended_or(
    moment: Callable[[subprocess.Popen[str]], object], process: subprocess.Popen[str]
) -> bool:
    return bool(moment(process)) or process.poll() is not None


def gone(leader: int) -> bool:
    return not tiny.group(leader)


def test_the_real_command_killed_with_its_workers(
    server: Runs, undisturbed: tuple[dict[str, bytes], int, float], tmp_path: Path
) -> None:
    """`benchmark train` as a user runs it; the whole process group is killed."""
    expected, _, _ = undisturbed
    root = forked.fresh(tmp_path / "project")
    assert tiny.run(root, "data").returncode == 0
    cells = root / ".benchmark" / "cells"
    moments: list[Callable[[subprocess.Popen[str]], object]] = [
        lambda process: tiny.workers(process.pid),
        lambda process: any(cells.glob("*")),
        lambda process: any((root / ".benchmark" / "trained").glob("*.safetensors")),
        lambda process: len(list(cells.glob("*/record.json"))) >= 2,
    ]
    for moment in moments:
        process = tiny.begin(root, "train", "--jobs", "1")
        try:
            tiny.wait_for(functools.partial(ended_or, moment, process), seconds=120)
            assert process.poll() is None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            tiny.wait_for(functools.partial(gone, process.pid))
        finally:
            tiny.end(process)
        for name, content in forked.left(root).items():
            assert content == expected[name], name
    done = tiny.run(root, "train", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert tiny.run(root, "leaderboard").returncode == 0
    assert forked.left(root) == expected
