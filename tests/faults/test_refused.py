"""A full disk and a folder that may not be written: one line, nothing half-written, nothing lost."""

from __future__ import annotations

import errno
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import parser
from tests.faults.conftest import Undisturbed
from tests.helpers import forked, slow, tiny

REFUSALS = slow.counts(5, 20)
"""Runs that are refused a change to a folder, each at another one."""


def parts(root: Path) -> list[Path]:
    """What was under way: hidden files and folders, but the notes on images, which stay."""
    return [path for path in root.rglob(".*") if path.name not in (".benchmark", ".mini-build")]


@pytest.mark.parametrize("refusals", REFUSALS)
def test_refused_at_random_changes_it_leaves_nothing_half_written(
    undisturbed: Undisturbed, tmp_path: Path, refusals: int
) -> None:
    """From some moment on the disk is full; then there is room again, and the run goes on."""
    dice, whole_runs = random.Random(0), 0
    root = forked.fresh(tmp_path / "0" / "project")
    for number in range(refusals):
        change = dice.randrange(undisturbed.changes // 3)
        ended = forked.go(root, change=change, error=errno.ENOSPC)
        assert ended.returncode in (0, 1, 3), ended
        assert parts(root) == []
        for name, content in forked.left(root).items():
            assert content == undisturbed.files[name], name
        if ended.returncode == 0:
            whole_runs += 1
            root = forked.fresh(tmp_path / str(number + 1) / "project")
    assert whole_runs < refusals / 2
    ended = forked.go(root)
    assert ended.returncode == 0, ended
    assert forked.left(root) == undisturbed.files


def limited(root: Path, size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where no file can get longer than `size` bytes: as a full disk, without a disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-m", "benchmark", *arguments], preexec_fn=limit,
        cwd=root, env=tiny.environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of the error; before it may stand how far the training runs were."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    *_, last = done.stderr.splitlines()
    assert [line for line in done.stderr.splitlines() if line.startswith("benchmark:")] == [last]
    return last


@pytest.mark.parametrize("sizes", slow.counts([20_000], [2_000, 8_000]), ids=len)
def test_the_real_command_on_a_full_disk(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    root = forked.fresh(tmp_path / "project")
    assert refusal(limited(root, 1000, "data"))
    assert not any((root / "data").glob("[!.]*/*"))
    assert tiny.run(root, "data").returncode == 0
    # Without room for a record, and with room for records and none for the end of a training.
    for size in sizes:
        said = refusal(limited(root, size, "train", "--jobs", "1"))
        assert str(root / ".benchmark") in said
        assert said.endswith("File too large")
        assert parts(root) == []
        assert not (root / "results").exists()
    done = tiny.run(root, "train", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert refusal(limited(root, 500, "leaderboard")).endswith("File too large")
    assert not (root / "results" / "mini" / "leaderboard.md").exists()
    monkeypatch.chdir(root)
    assert parser.main(["leaderboard"]) == 0
    assert forked.left(root) == undisturbed.files


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a folder one that nobody may write to; a mode would not stop who runs tests as root."""
    makers: dict[str, Any] = {name: getattr(tempfile, name) for name in ("mkstemp", "mkdtemp")}

    def forbid(folder: Path) -> None:
        for name, maker in makers.items():

            def refuse(*given: Any, maker: Any = maker, **named: Any) -> Any:
                if named.get("dir") and Path(named["dir"]).is_relative_to(folder):
                    raise PermissionError(errno.EACCES, "Permission denied", str(named["dir"]))
                return maker(*given, **named)

            monkeypatch.setattr(tempfile, name, refuse)

    return forbid


@pytest.mark.parametrize(("verb", "folder"), [("train", "results"), ("leaderboard", "results")])
def test_results_that_may_not_be_written(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], forbidden: Callable[[Path], None], verb: str, folder: str,
) -> None:  # fmt: skip
    """One line; what is published stays, and the store has every record."""
    root = tmp_path / "project"
    shutil.copytree(undisturbed.root, root)
    before = forked.left(root)
    monkeypatch.chdir(root)
    with monkeypatch.context():
        forbidden(root / folder)
        capsys.readouterr()
        assert parser.main([verb]) == 2
        lines = capsys.readouterr().err.splitlines()
        # `train` says first that it found every cell done.
        assert len(lines) == (2 if verb == "train" else 1)
        assert lines[-1].startswith("benchmark: ")
        assert lines[-1].endswith("Permission denied")
        assert str(root / folder) in lines[-1]
    assert forked.left(root) == before
    monkeypatch.undo()
    monkeypatch.chdir(root)
    shutil.rmtree(root / "results")
    assert parser.main(["train"]) == 0
    assert parser.main(["leaderboard"]) == 0
    assert forked.left(root) == before
