"""Killed at any moment and started again, a run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.helpers import forked, slow, tiny

KILLS = slow.counts(6, 25)
"""In a process that has imported torch; there are some more below."""


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
    undisturbed: Undisturbed, tmp_path: Path, at: str, kills: int
) -> None:
    """A run is killed and started again until it ends, and then another one begins.

    Half of the kills come just before a file or folder is made, moved or removed, so that every step
    of a write is met; the others come after a random time.
    """
    expected = undisturbed.files
    dice, met = random.Random(at), Counter[str]()
    root, number = forked.fresh(tmp_path / "0" / "project"), 0
    while met.total() < kills:
        if at == "any time":
            ended = forked.go(root, seconds=dice.uniform(0.0, undisturbed.seconds / 2))
        else:
            ended = forked.go(root, change=dice.randrange(undisturbed.changes // 3))
        there = forked.left(root)
        # Whatever the moment: what is there is whole.
        for name, content in there.items():
            assert content == expected[name], name
        if ended.returncode == 0:
            assert there == expected
            number += 1
            root = forked.fresh(tmp_path / str(number) / "project")
            continue
        assert ended.returncode == -signal.SIGKILL, ended
        met[phase(there)] += 1
    ended = forked.go(root)
    assert ended.returncode == 0, ended
    assert forked.left(root) == expected
    if at != "any time":  # the others depend on the machine's speed
        assert len(met) >= min(3, kills // 3)


@pytest.mark.parametrize("share", [0.04, 0.3, 0.64, 0.8, 0.9, 0.98])
def test_one_kill_and_one_restart_are_enough(
    undisturbed: Undisturbed, tmp_path: Path, share: float
) -> None:
    """In every phase: images, checkpoints, records, publication and tables."""
    root = forked.fresh(tmp_path / "project")
    change = int(share * undisturbed.changes)
    assert forked.go(root, change=change).returncode == -signal.SIGKILL
    assert forked.left(root) != undisturbed.files
    ended = forked.go(root)
    assert ended.returncode == 0, ended
    assert forked.left(root) == undisturbed.files


def ended_or(
    moment: Callable[[subprocess.Popen[str]], object], process: subprocess.Popen[str]
) -> bool:
    return bool(moment(process)) or process.poll() is not None


def gone(leader: int) -> bool:
    return not tiny.group(leader)


@pytest.mark.parametrize("kills", slow.counts(2, 4))
def test_the_real_command_killed_with_its_workers(
    undisturbed: Undisturbed, tmp_path: Path, kills: int
) -> None:
    """`benchmark train` as a user runs it; the whole process group is killed."""
    expected = undisturbed.files
    root = forked.fresh(tmp_path / "project")
    assert tiny.run(root, "data").returncode == 0
    cells = root / ".benchmark" / "cells"
    moments: list[Callable[[subprocess.Popen[str]], object]] = [
        lambda process: tiny.workers(process.pid),
        lambda process: any(cells.glob("*")),
        lambda process: any((root / ".benchmark" / "trained").glob("*.safetensors")),
        lambda process: len(list(cells.glob("*/record.json"))) >= 2,
    ]
    for moment in moments[1::2] if kills == 2 else moments:
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
