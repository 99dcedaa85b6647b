"""One undisturbed run for all tests that compare with it or damage a copy of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import forked


@dataclass(frozen=True)
class Undisturbed:
    """A project after an undisturbed run; nobody changes it."""

    root: Path
    files: dict[str, bytes]
    """What the run left, see `forked.left`."""
    changes: int
    """How many changes it made to folders."""
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = forked.fresh(tmp_path_factory.mktemp("undisturbed") / "project")
    ended = forked.go(root, watched=True)
    assert ended.returncode == 0, ended
    changes = forked.changes(root).read_text(encoding="utf-8").splitlines()
    found = forked.left(root)
    assert len([name for name in found if name.startswith("results/mini/records")]) == 3
    assert len([name for name in found if name.endswith("record.json")]) == 3
    assert {"results/mini/leaderboard.md", "data/mini/manifest.json"} <= set(found)
    return Undisturbed(root, found, len(changes), ended.seconds)
