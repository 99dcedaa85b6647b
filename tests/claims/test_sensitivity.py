"""What one step of the learning rate either way would make of a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmark.report.claims import write
from tests.helpers.planted import (
    MINUS,
    PLUS,
    advice,
    effect,
    judged,
    one,
    reasons,
    shortcut,
    speed,
    stand,
)

SAME = "the verdict is the same for one step of the rate either way of either arm"
Near = Mapping[str, tuple[float | None, float | None]]


def shifted(
    root: Path, gap: float, around: Near, rule: str = "better", **kept: Any
) -> dict[str, Any]:
    stand(root, {"study": effect(gap)}, one(advice(rule)), around=around, **kept)
    return judged(root)


def test_a_verdict_that_no_step_changes(tmp_path: Path) -> None:
    """By default every rate a step away is expected to cost one point of 50."""
    entry = shifted(tmp_path, 0.05, {})
    found, estimate = entry["sensitivity"], entry["estimate"]["mean"]
    assert found["summary"] == SAME
    assert [(step["side"], step["direction"]) for step in found["steps"]] == [
        ("plus", "lower"), ("plus", "higher"), ("minus", "lower"), ("minus", "higher"),
    ]  # fmt: skip
    assert [step["change"] for step in found["steps"]] == [-0.01] * 4
    moved = [step["estimate"] - estimate for step in found["steps"]]
    assert moved == pytest.approx([-0.01, -0.01, 0.01, 0.01], abs=1e-6)
    assert {step["verdict"] for step in found["steps"]} == {entry["verdict"]} == {"supported"}


def test_a_verdict_that_one_step_turns_is_named_and_stands(tmp_path: Path) -> None:
    entry = shifted(tmp_path, 0.05, {PLUS: (0.40, 0.49), MINUS: (0.49, 0.49)})
    assert entry["verdict"] == "supported"
    assert entry["sensitivity"]["summary"] == f"with {PLUS} one step lower it would be refuted"
    lower, *others = entry["sensitivity"]["steps"]
    assert lower["verdict"] == "refuted"
    assert {step["verdict"] for step in others} == {"supported"}


def test_the_standard_error_stays_and_the_rule_is_the_same(tmp_path: Path) -> None:
    """A shift to no difference at all is judged equivalent, as a difference of 0 is."""
    entry = shifted(tmp_path, 0.05, {PLUS: (0.45, 0.49)}, rule="no-worse")
    lower = entry["sensitivity"]["steps"][0]
    assert abs(lower["estimate"]) < 0.005
    assert lower["verdict"] == "supported"
    differs = shifted(tmp_path / "differs", 0.05, {PLUS: (0.45, 0.49)}, rule="differs")
    assert differs["sensitivity"]["steps"][0]["verdict"] == "refuted"


def test_a_rate_that_was_not_tried_or_fails_is_not_known(tmp_path: Path) -> None:
    entry = shifted(tmp_path, 0.05, {PLUS: (0.49, None)})
    found = entry["sensitivity"]
    assert found["summary"] == (
        "the verdict is the same for every step of the rate that was tried; not known with "
        f"{PLUS} one step higher: that rate was not tried, or a training failed there"
    )
    lost = found["steps"][1]
    assert (lost["change"], lost["estimate"], lost["verdict"]) == (None, None, None)
    assert lost["learning_rate"] is not None
    everything = dict.fromkeys((PLUS, MINUS), (None, None))
    entry = shifted(tmp_path / "none", 0.05, everything)
    assert "those rates were not tried" in entry["sensitivity"]["summary"]
    assert "the same" not in entry["sensitivity"]["summary"]


def test_an_arm_that_would_not_have_learnt_is_held_against_the_bar(tmp_path: Path) -> None:
    """Both arms at 25 %, the bar at 22 %: with either five points lower one has learnt, still."""
    stand(
        tmp_path,
        {"study": effect(0.0, level=0.25)},
        one(advice()),
        around={PLUS: (0.45, 0.49), MINUS: (0.49, 0.49)},
    )
    entry = judged(tmp_path)
    assert "learnt" not in reasons(entry)
    assert entry["sensitivity"]["steps"][0]["verdict"] == "refuted"


def test_where_nothing_was_tuned_or_estimated_there_is_nothing_to_say(tmp_path: Path) -> None:
    stand(tmp_path / "leakage", {"leakage": effect(0.0)}, one(shortcut()))
    assert judged(tmp_path / "leakage")["sensitivity"] is None
    stand(tmp_path / "speed", {}, one(speed()))
    assert judged(tmp_path / "speed")["sensitivity"] is None
    stand(tmp_path / "bare", {}, one(advice()))
    assert judged(tmp_path / "bare")["sensitivity"] is None


def test_the_page_has_the_table_and_the_line(tmp_path: Path) -> None:
    shifted(tmp_path, 0.05, {PLUS: (0.40, None)})
    write.write(tmp_path, "mini")
    text = (tmp_path / "results/mini/claims.md").read_text(encoding="utf-8")
    assert (
        "**Another learning rate** (this decides nothing): with simclr-resnet-bn one step" in text
    )
    (lower, higher) = (
        line
        for line in text.splitlines()
        if line.startswith(f"| `{PLUS}` | ")
        and "step" not in line
        and ("| lower |" in line or "| higher |" in line)
    )
    assert lower.endswith("| refuted |")
    assert "| -10.00 |" in lower
    assert higher.endswith("| — | — | not known |")
