"""Killed at any moment and started again, a run ends with the bytes of an undisturbed one."""

from __future__ import annotations

import functools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.faults import forked
from tests.faults.forked import Runs

KILLS = 50
"""In a process that has loaded torch; there are some more below."""


def fresh(root: Path) -> Path:
    """A project whose images are not built."""
    root.mkdir(parents=True)
    tiny.draw_images(root / "images")
    tiny.write_params(root, forked.tree())
    return root


def left(root: Path) -> dict[str, bytes]:
    """The files that a run leaves and that do not depend on time: all but run logs and checkpoints.

    Names that begin with a dot are of what was under way, and nobody reads them.
    """
    found = {}
    for folder in ("data", "results", ".benchmark"):
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root)
            hidden = any(part.startswith(".") for part in name.parts[1:])
            if path.is_file() and not hidden and path.stem not in ("run", "checkpoint"):
                found[str(name)] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Runs]:
    with forked.runs() as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(
    server: Runs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], int, float]:
    """What an undisturbed run leaves, how many changes it makes to folders, and its seconds."""
    root = fresh(tmp_path_factory.mktemp("undisturbed") / "project")
    code, seconds = server.go(root, watched=True)
    assert code == 0, said(root)
    changes = root.with_name("said.changes").read_text(encoding="utf-8").splitlines()
    found = left(root)
    assert len(found) == 13
    return found, len(changes), seconds


def said(root: Path) -> str:
    return root.with_name("said").read_text(encoding="utf-8")


def phase(there: dict[str, bytes]) -> str:
    """How far a run has come, by what it has left."""
    if "results/mini/leaderboard.md" in there:
        return "tables"
    if any(name.startswith("results/mini/records") for name in there):
        return "publication"
    if any(name.endswith("record.json") for name in there):
        return "records"
    return "training" if "data/mini/manifest.json" in there else "images"


@pytest.mark.parametrize("at", ["a change to a folder", "any time"])
def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(
    server: Runs, undisturbed: tuple[dict[str, bytes], int, float], tmp_path: Path, at: str
) -> None:
    """A run is killed and started again until it ends, and then another one begins.

    Half of the kills come just before a file or folder is made, moved or removed, so that every step of a
    write is met; the others come after a random time.
    """
    expected, changes, whole = undisturbed
    dice, kills, met = random.Random(at), 0, Counter[str]()
    root, number = fresh(tmp_path / "0" / "project"), 0
    while kills < KILLS // 2:
        if at == "any time":
            code, _ = server.go(root, seconds=dice.uniform(0.0, whole / 2))
        else:
            code, _ = server.go(root, change=dice.randrange(changes // 3))
        there = left(root)
        # Whatever the moment: what is there is whole.
        for name, content in there.items():
            assert content == expected[name], name
        if code == 0:
            assert there == expected
            number += 1
            root = fresh(tmp_path / str(number) / "project")
            continue
        assert code == -signal.SIGKILL, said(root)
        kills += 1
        met[phase(there)] += 1
    code, _ = server.go(root)
    assert code == 0, said(root)
    assert left(root) == expected
    if at != "any time":  # the others depend on the machine's speed
        assert len(met) >= 3


@pytest.mark.parametrize("share", [0.04, 0.3, 0.64, 0.8, 0.9, 0.98])
def test_one_kill_and_one_restart_are_enough(
    server: Runs, undisturbed: tuple[dict[str, bytes], int, float], tmp_path: Path, share: float
) -> None:
    """In every phase: images, checkpoints, records, publication and tables."""
    expected, changes, _ = undisturbed
    root = fresh(tmp_path / "project")
    assert server.go(root, change=int(share * changes))[0] == -signal.SIGKILL
    assert left(root) != expected
    code, _ = server.go(root)
    assert code == 0, said(root)
    assert left(root) == expected


def test_the_real_command_killed_with_its_workers(
    server: Runs, undisturbed: tuple[dict[str, bytes], int, float], tmp_path: Path
) -> None:
    """`benchmark train` as a user runs it; the whole process group is killed."""
    expected, _, _ = undisturbed
    root = fresh(tmp_path / "project")
    assert tiny.run(root, "data").returncode == 0
    cells = root / ".benchmark" / "cells"
    records = "*/record.json"
    moments = [
        lambda process: tiny.workers(process.pid),
        lambda process: any(cells.glob("*")) if cells.is_dir() else False,
        lambda process: any((root / ".benchmark" / "trained").glob("*.safetensors")),
        lambda process: len(list(cells.glob(records))) >= 2,
    ]
    for moment in moments:
        process = tiny.begin(root, "train", "--jobs", "1")
        try:
            tiny.wait_for(lambda m=moment, p=process: m(p) or p.poll() is not None, seconds=120)
            killed = process.poll() is None
            if killed:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert killed
            tiny.wait_for(functools.partial(lambda pid: not tiny.group(pid), process.pid))
        finally:
            tiny.end(process)
        for name, content in left(root).items():
            assert content == expected[name], name
    done = tiny.run(root, "train", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert tiny.run(root, "leaderboard").returncode == 0
    assert left(root) == expected
