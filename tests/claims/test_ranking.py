"""Ranks of a leaderboard: those of its complete rows that are no controls."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.core.errors import UserError
from benchmark.report.claims.ranking import RANKS_FIGURE, ranking
from benchmark.report.markdown import render


def row(method: str, scheme: str, mean: float, **changes: Any) -> dict[str, Any]:
    plain = {"complete": True, "control": False, "backbone": "resnet", "knn": {"mean": mean}}
    return {"method": method, "scheme": scheme, **plain, **changes}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "leaderboard.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    return folder


def planted() -> list[dict[str, Any]]:
    """Six methods under which `bn` is always first and `ln` always last."""
    return [
        row(f"m{number}", scheme, mean)
        for number in range(6)
        for scheme, mean in {"gn": 0.3, "bn": 0.4, "ln": 0.2}.items()
    ]


def test_a_planted_order_is_found_whatever_controls_and_failed_rows_say(tmp_path: Path) -> None:
    rows = planted() + [
        row("supervised", scheme, mean, control=True)
        for scheme, mean in {"bn": 0.1, "gn": 0.2, "ln": 0.9}.items()
    ]
    rows += [row("failed", "ln", 0.9, complete=False)]
    found = ranking(write(tmp_path, rows))
    assert found is not None
    assert list(found.average) == ["bn", "gn", "ln"]
    assert list(found.average.values()) == [1.0, 2.0, 3.0]
    assert found.blocks == 6
    assert found.p < 0.01
    shown = render("ranks.md.j2", ranks=found, ranks_figure=RANKS_FIGURE)
    assert "decides no verdict" in shown
    assert RANKS_FIGURE in shown


def test_without_a_leaderboard_or_with_too_few_schemes_there_are_no_ranks(tmp_path: Path) -> None:
    assert ranking(tmp_path) is None
    assert (
        ranking(write(tmp_path, [entry for entry in planted() if entry["scheme"] != "ln"])) is None
    )


def test_what_is_no_leaderboard_is_named(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.json").write_text('{"rows": [{}]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"leaderboard\.json: not a leaderboard"):
        ranking(tmp_path)
