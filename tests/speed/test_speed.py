"""`python -m tools.speed` from the command to its files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import tiny, warm
from tests.helpers.warm import Ended
from tools.speed import report, timing
from tools.speed.cases import MINI_RESNET
from tools.speed.timing import Stretch


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's params alone: nothing is needed beside them."""
    shutil.copy(tiny.PROJECT / "params.yaml", tmp_path)
    return tmp_path


def speed(project: Path, *arguments: str) -> Ended:
    return warm.call("tools.speed.__main__:main", [arguments], project, tiny.environment(), 300)


@pytest.mark.slow
def test_a_turn_of_each_is_timed_and_written_down(project: Path) -> None:
    done = speed(
        project, "--part", "training", "--case", "mini-resnet", "--rounds", "2",
        "--seconds", "0.2", "--threads", "1", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = project / done.stdout.strip()
    document = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    (entry,) = document["training"]
    assert entry["rounds"] == 2
    assert entry["threads"] == 1
    rates = entry["images_per_second"]
    assert set(rates) == {"ours", "lightly", "kornia", "bare"}
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in rates.values())
    assert set(entry["ours_to"]) == {"lightly", "kornia", "bare"}
    assert document["machine"]["cores"] >= 1
    assert "mini-resnet" in page.read_text(encoding="utf-8")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--case", "nothing"], "mini-resnet"),
        (["--part", "nothing"], "harness"),
        (["--threads", "4096"], "cores"),
        (["--threads", "half"], "half"),
        (["--rounds", "0"], "--rounds"),
        (["--seconds", "nan"], "--seconds"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    project: Path, arguments: list[str], named: str
) -> None:
    done = speed(project, *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert named in line


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that slows down in one round changes no ratio."""

    def round_(slow: float) -> dict[str, Stretch]:
        rates = {"ours": 300.0, "lightly": 100.0, "kornia": 200.0, "bare": 400.0}
        return {name: Stretch(rate / slow) for name, rate in rates.items()}

    entry = report.entry(MINI_RESNET, 1, [round_(1), round_(10), round_(2)])
    assert entry["ours_to"]["lightly"] == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert entry["ours_to"]["bare"]["median"] == 0.75
    assert entry["bound_to"]["lightly"]["median"] == 4.0
    assert entry["images_per_second"]["ours"] == {"median": 150.0, "low": 30.0, "high": 300.0}


def test_a_stretch_counts_whole_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def run(tick) -> None:
        while True:
            tick()
            clock[0] += 0.25

    found = timing.stretch(run, seconds=5.0, images=8, device="cpu")
    assert found.images_per_second == 32.0


def test_figures_of_another_machine_are_not_kept(tmp_path: Path) -> None:
    here = report.machine({"device": "cpu", "torch": "2.11.0", "instruction_set": "AVX2"})
    report.write(tmp_path, "x", {"machine": here, "harness": []})
    assert report.load(tmp_path, "x", here) == {"machine": here, "harness": [], "schema": 1}
    other = here | {"cpu": "another"}
    assert report.load(tmp_path, "x", other) == {"machine": other}
