"""Verification trains published cells again from nothing and says what is not the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark import canonical, cli, collect, plan, runtime
from benchmark.run import run
from benchmark.verify import sample
from tests import tiny

LABEL = "simclr-resnet-bn-s0"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one published cell, trained in this process."""
    root = tiny.project(tmp_path_factory.mktemp("honest"))
    cell = tiny.cell(LABEL)
    record = run(
        cell, root / "data" / "mini", tiny.store(root), runtime.start("cpu"), lambda *_: True
    )
    target = collect.folder(root, "mini", "leaderboard", "simclr")
    collect.publish([cell], tiny.dataset(root), tiny.store(root), target)
    (entry,) = collect.read(target)
    line = {
        "label": LABEL,
        "sha256": entry.checksum,
        "status": "done",
        "knn": record["result"]["metrics"]["pooled.knn5"],
    }
    publish(root, line)
    return root


def publish(root: Path, *lines: dict[str, Any]) -> None:
    text = canonical.pretty({"rows": [{"records": list(lines)}]})
    canonical.write(root / "results" / "mini" / "leaderboard.json", text)


def line(root: Path) -> dict[str, Any]:
    file = root / "results" / "mini" / "leaderboard.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["rows"][0]["records"][0])


@pytest.fixture
def root(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(honest, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains without workers, which take seconds to start."""

    def train(cells: Any, store: Any, data: Path, *_: Any) -> None:
        for cell in cells:
            run(cell, data, store, runtime.start("cpu"), lambda *_: True)

    monkeypatch.setattr("benchmark.verify.train_missing", train)


def test_an_honest_table_is_identical(root: Path) -> None:
    """Although nothing of the store is used."""
    done = tiny.run(root, "verify", LABEL, "--exact", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [LABEL, "identical", line(root)["sha256"][:12]]


Tamper = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    ("tamper", "verdict", "code", "exact_code"),
    [
        (lambda r: {"sha256": "0" * 64, "knn": r["knn"] - 0.2}, "different", 1, 1),
        (lambda r: {"sha256": "0" * 64, "status": "diverged"}, "different", 1, 1),
        (lambda r: {"sha256": "0" * 64, "knn": None}, "different", 1, 1),
        (lambda r: {"sha256": "0" * 64, "knn": r["knn"] - 0.02}, "within tolerance", 0, 1),
        # The checksum says that the record is this one, but the table shows another number.
        (lambda r: {"knn": r["knn"] + 0.3}, "different", 1, 1),
    ],
    ids=["accuracy", "status", "no accuracy", "close", "accuracy under an honest checksum"],
)
def test_a_table_that_was_tampered_with_is_found_out(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tamper: Tamper,
    verdict: str,
    code: int,
    exact_code: int,
) -> None:
    in_this_process(monkeypatch)
    publish(root, line(root) | tamper(line(root)))
    assert cli.main(["verify", LABEL]) == code
    shown = capsys.readouterr()
    assert verdict in shown.out
    assert (shown.err == "") == (code == 0)
    assert cli.main(["verify", LABEL, "--exact"]) == exact_code
    assert f"benchmark: 1 of 1 cells differ: {LABEL}" in capsys.readouterr().err


def test_a_cell_that_is_not_published_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = tiny.refusal(capsys, "verify", "raw-pixels-pixels-none-s0")
    assert "does not list raw-pixels-pixels-none-s0" in said


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rows": [{}]}'])
def test_a_damaged_table_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (root / "results" / "mini" / "leaderboard.json").write_text(text)
    assert "no published leaderboard" in tiny.refusal(capsys, "verify", LABEL)


def test_a_sample_depends_on_its_draw_alone_and_spreads_over_rows() -> None:
    tree = tiny.real()
    tree["experiments"]["leaderboard"] |= {"rates": "default", "seeds": [0, 1, 2]}
    cells = plan.cells(tiny.params(tree), "leaderboard", None)
    rows = {(c.method, c.family, c.scheme) for c in cells}
    chosen = sample(cells, 5, "0")
    assert chosen == sample(list(reversed(cells)), 5, "0")
    assert sample(cells, 3, "0") == chosen[:3]
    assert sample(cells, 5, "1") != chosen
    many = sample(cells, len(rows), "0")
    assert {(c.method, c.family, c.scheme) for c in many} == rows
    assert len({c.seed for c in many}) == 3
    everything = sample(cells, 10_000, "0")
    assert sorted(c.label for c in everything) == sorted(c.label for c in cells)
