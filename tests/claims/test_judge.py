"""A planted effect is found, with its sign, its numbers and its verdict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmark.analysis.claims.rules import ruling
from benchmark.analysis.contrasts import Finding
from benchmark.planning.cell import Cell
from tests.helpers import planted
from tests.helpers.planted import (
    APART,
    MINUS,
    PLUS,
    SEEDS,
    SHUFFLED,
    THIRD,
    advice,
    but,
    claim,
    claims,
    effect,
    found,
    judged,
    ladder,
    one,
    reasons,
    record_of,
    speed,
    stand,
)


def values(root: Path, row: str, key: str = "pooled_reestimated.knn5") -> list[float]:
    """A metric as it stands in the records."""
    texts = [record_of(root, f"{row}-s{seed}").read_text() for seed in SEEDS]
    return [json.loads(text)["record"]["result"]["metrics"][key] for text in texts]


@pytest.mark.parametrize(
    ("gap", "spread", "better", "no_worse", "differs"),
    [
        (0.05, 0.002, "supported", "supported", "supported"),
        (-0.05, 0.002, "refuted", "refuted", "supported"),
        (0.0, 0.001, "refuted", "supported", "refuted"),
        (0.0, 0.05, "undetermined", "undetermined", "undetermined"),
        (0.008, 0.001, "mixed", "supported", "mixed"),
        (-0.008, 0.001, "refuted", "mixed", "mixed"),
    ],
)
def test_each_rule_finds_what_is_planted(
    tmp_path: Path, gap: float, spread: float, better: str, no_worse: str, differs: str
) -> None:
    for rule, verdict in (("better", better), ("no-worse", no_worse), ("differs", differs)):
        entry = found(tmp_path / rule, effect(gap, spread), advice(rule))
        assert entry["verdict"] == verdict, reasons(entry)
        estimate = entry["estimate"]
        assert estimate["low"] < estimate["mean"] < estimate["high"]
        assert estimate["low"] < gap < estimate["high"]
        assert estimate["n"] == 6


@pytest.mark.parametrize("rule", ["better", "no-worse", "differs"])
def test_the_table_of_verdicts(rule: Any) -> None:
    """By the words of claims.yaml, which are independent of the code's order."""

    def said(mean: float, significant: bool, equivalent: bool) -> str:
        finding = Finding(
            mean, None, None, None, 5, 1.0, 1.0, significant, None, equivalent, None, 6, None, None,
            False,
        )  # fmt: skip
        return ruling(rule, finding, equivalent=equivalent)[0]

    above, below = said(1, True, False), said(-1, True, False)
    both, under, same = said(1, True, True), said(-1, True, True), said(1, False, True)
    expected = {
        "better": ("supported", "refuted", "mixed", "refuted", "refuted"),
        "no-worse": ("supported", "refuted", "supported", "mixed", "supported"),
        "differs": ("supported", "supported", "mixed", "mixed", "refuted"),
    }
    assert (above, below, both, under, same) == expected[rule]
    assert said(1, False, False) == said(-1, False, False) == "undetermined"


def test_numbers_against_an_independent_calculation(tmp_path: Path) -> None:
    asked = advice()
    other_row = "simclr-resnet-bn-gn-head"
    beside = [{"text": "x", "plus": THIRD, "minus": other_row, "differs": ["norms"]}]
    many = {f"D{n}": claim(advice()) for n in range(3)}
    stand(tmp_path, {"study": effect(0.01, 0.004)}, claims(C=claim(asked, beside=beside), **many))
    entry = judged(tmp_path)
    rows = [values(tmp_path, row) for row in (PLUS, MINUS, THIRD)]
    gaps = np.subtract(rows[0], rows[1])
    # Residuals of arm + seed by least squares, over the three rows that have all seeds.
    design = np.array([[i == a for i in range(3)] + [j == s for j in range(1, 6)]
                       for a in range(3) for s in range(6)], dtype=float)  # fmt: skip
    _, squares, rank, _ = np.linalg.lstsq(design, np.ravel(rows), rcond=None)
    df = 18 - rank
    pooled = math.sqrt(2 * squares[0] / df)
    own = float(np.std(gaps, ddof=1))
    estimate = entry["estimate"]
    half = (
        stats.t.ppf(1 - 0.05 / 4 / 2, df if pooled > own else 5) * max(pooled, own) / math.sqrt(6)
    )
    assert (df, estimate["pooled"]) == (10, pooled > own)
    assert estimate["df"] == (df if pooled > own else 5)
    assert estimate["mean"] == pytest.approx(gaps.mean(), abs=1e-6)
    assert estimate["high"] - estimate["mean"] == pytest.approx(half, abs=2e-6)
    assert estimate["pooled_sd"] == pytest.approx(pooled, abs=1e-6)
    assert estimate["own_sd"] == pytest.approx(np.std(gaps, ddof=1), abs=1e-6)
    assert estimate["p_adjusted"] == pytest.approx(min(1, 4 * estimate["p"]), rel=1e-2)
    assert entry["correlation"] == pytest.approx(np.corrcoef(rows[0], rows[1])[0, 1], abs=1e-6)
    for seed, line in enumerate(entry["seeds"]):
        assert line["difference"] == pytest.approx(gaps[seed], abs=1e-6)
    # Beside it: two seeds, by the same pool, and unadjusted.
    (other,) = entry["beside"]
    assert other["n"] == 2
    short = [other["high"] - other["mean"], other["mean"] - other["low"]]
    assert min(short) >= stats.t.ppf(0.975, df) * pooled / math.sqrt(2) - 2e-6
    assert "p" not in other
    assert "significant" not in other
    # With the statistics that training left GN is a point lower still, by which nothing is decided.
    plain = entry["running_statistics"]["mean"]
    assert plain == pytest.approx(estimate["mean"] + 0.01, abs=1e-6)


def test_a_difference_beside_can_be_of_another_experiment(tmp_path: Path) -> None:
    """It is estimated there, without a word on the claim's own rows."""

    def elsewhere(cell: Cell) -> float:
        return float(effect(0.0)(cell)) + (0.05 if cell.scheme == "bn-of-8-no-shuffle" else 0.0)

    pair = {"plus": APART, "minus": SHUFFLED, "differs": [planted.SHUFFLE]}
    beside = [{"text": "x", "experiment": "leakage", **pair}]
    stand(tmp_path, {"study": effect(0.03), "leakage": elsewhere}, one(advice(), beside=beside))
    entry = judged(tmp_path)
    (other,) = entry["beside"]
    assert entry["estimate"]["mean"] == pytest.approx(0.03, abs=0.004)
    assert (other["experiment"], other["n"]) == ("leakage", 6)
    assert other["mean"] == pytest.approx(0.05, abs=0.004)
    assert all(cell["name"].startswith("mini/study/") for cell in entry["cells"])


def test_a_single_seed_beside_has_no_interval(tmp_path: Path) -> None:
    beside = [{"text": "x", "plus": "bn", "minus": "ln", "differs": ["norms"]}]
    tops = {"bn": 1.0, "none-plain": 0.1, "ln": 0.1}
    stand(tmp_path, {"speed": ladder(tops)}, one(speed(), beside=beside))
    (other,) = judged(tmp_path)["beside"]
    assert (other["mean"], other["n"]) == (1.0, 1)
    assert other["low"] is other["high"] is None


def test_rows_that_failed_or_learnt_nothing_are_not_pooled(tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "whole": {},
        "failed": {f"{THIRD}-s2": "diverged"},
        "not-learnt": {THIRD: 0.21},
    }
    degrees = []
    for name, changed in changes.items():
        entry = found(tmp_path / name, but(effect(0.05), changed), advice())
        assert entry["verdict"] == "supported"
        degrees.append(entry["estimate"]["df"])
    assert degrees == [10, 5, 5]


def test_the_very_same_trainings_are_pooled_once(tmp_path: Path) -> None:
    tree = planted.experiments()
    tree["schemes"]["again"] = tree["schemes"]["ln"]
    tree["experiments"]["study"]["schemes"].append("again")
    stand(tmp_path, {"study": effect(0.05)}, one(advice()), tree=tree)
    assert judged(tmp_path)["estimate"]["df"] == 10
