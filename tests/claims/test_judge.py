"""A planted effect is found with its sign and its verdict, and nothing is said of a part of the data."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmark.claims.arms import highest_stable
from benchmark.claims.rules import ruling
from benchmark.plan import Cell
from benchmark.report.contrasts import Finding
from tests import tiny
from tests.claims import planted
from tests.claims.planted import (
    MINUS,
    PLUS,
    RATES,
    SEEDS,
    THIRD,
    Plan,
    advice,
    claim,
    claims,
    effect,
    judged,
    ladder,
    record_of,
    speed,
    stand,
)  # fmt: skip

LABELS = [f"{row}-s{seed}" for row in (PLUS, MINUS) for seed in SEEDS]
LONG = {"plus": "simclr-long-resnet-bn", "minus": "simclr-long-resnet-gn"}
CONTROLS = ["untrained-resnet-bn", "untrained-resnet-gn"]


def one(asked: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A claims.yaml with one claim, called C."""
    return claims(C=claim(asked, **changes))


def found(root: Path, planned: Plan, asked: Mapping[str, Any], **kept: Any) -> dict[str, Any]:
    """The claim with that advice where `study` came to what is planned."""
    stand(root, {"study": planned}, one(asked), **kept)
    return judged(root)


def but(planned: Plan, changed: Mapping[str, Any]) -> Plan:
    """A plan with other values for some cells, or for whole rows."""

    def value(cell: Cell) -> Any:
        return changed.get(cell.label, changed.get(cell.label.rsplit("-s", 1)[0], planned(cell)))

    return value


def reasons(entry: Mapping[str, Any]) -> str:
    return "; ".join(entry["reasons"])


def values(root: Path, row: str, key: str = "pooled_reestimated.knn5") -> list[float]:
    """A metric as it stands in the records."""
    texts = [record_of(root, f"{row}-s{seed}").read_text() for seed in SEEDS]
    return [json.loads(text)["record"]["result"]["metrics"][key] for text in texts]


# Planted effects


@pytest.mark.parametrize(
    ("gap", "spread", "better", "no_worse"),
    [
        (0.05, 0.002, "supported", "supported"),
        (-0.05, 0.002, "refuted", "refuted"),
        (0.0, 0.001, "refuted", "supported"),
        (0.0, 0.05, "undetermined", "undetermined"),
        (0.008, 0.001, "mixed", "supported"),
        (-0.008, 0.001, "refuted", "mixed"),
    ],
)
def test_each_rule_finds_what_is_planted(
    tmp_path: Path, gap: float, spread: float, better: str, no_worse: str
) -> None:
    for rule, verdict in (("better", better), ("no-worse", no_worse)):
        entry = found(tmp_path / rule, effect(gap, spread), advice(rule))
        assert entry["verdict"] == verdict, reasons(entry)
        estimate = entry["estimate"]
        assert estimate["low"] < estimate["mean"] < estimate["high"]
        assert estimate["low"] < gap < estimate["high"]
        assert estimate["n"] == 6


@pytest.mark.parametrize("rule", ["better", "no-worse"])
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
    }
    assert (above, below, both, under, same) == expected[rule]
    assert said(1, False, False) == said(-1, False, False) == "undetermined"


def test_numbers_against_an_independent_calculation(tmp_path: Path) -> None:
    asked = advice()
    beside = [{"text": "x", "plus": THIRD, "minus": "simclr-resnet-bn-gn-head"}]
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
    sd = max(pooled, float(np.std(gaps, ddof=1)))
    estimate = entry["estimate"]
    half = stats.t.ppf(1 - 0.05 / 4 / 2, df) * sd / math.sqrt(6)
    assert estimate["df"] == df == 10
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


def test_a_single_seed_beside_has_no_interval(tmp_path: Path) -> None:
    beside = [{"text": "x", "plus": "bn", "minus": "ln"}]
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


# Rule 1: nothing is said of a part of the data


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a clear effect and all of its records."""
    root = tmp_path_factory.mktemp("whole")
    stand(root, {"study": effect(0.05)}, one(advice(confirmed_by=LONG)))
    assert judged(root)["verdict"] == "supported"
    return root


@pytest.mark.parametrize("label", LABELS)
def test_without_any_one_record_there_is_no_verdict(whole: Path, label: str) -> None:
    path = record_of(whole, label)
    kept = path.read_bytes()
    path.unlink()
    try:
        entry = judged(whole)
    finally:
        path.write_bytes(kept)
    row, seed = label.rsplit("-s", 1)
    assert entry["verdict"] == "undetermined"
    assert entry["estimate"] is None
    assert entry["correlation"] is None
    assert all(line["difference"] is None for line in entry["seeds"])
    assert reasons(entry) == f"no record of {row} for seed {seed}"
    (lost,) = (cell for cell in entry["cells"] if cell["sha256"] is None)
    assert (lost["name"], lost["status"]) == (f"mini/study/{label}", "missing")


@pytest.mark.parametrize("control", CONTROLS)
def test_without_a_control_there_is_no_verdict(whole: Path, control: str) -> None:
    path = record_of(whole, f"{control}-s1")
    kept = path.read_bytes()
    path.unlink()
    try:
        entry = judged(whole)
    finally:
        path.write_bytes(kept)
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == f"no untrained control: no record of every seed of {control}"


def test_without_any_record(tmp_path: Path) -> None:
    stand(tmp_path, written=one(advice()))
    entry = judged(tmp_path)
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert f"no record of {PLUS}, {MINUS} for seeds 0, 1, 2, 3, 4, 5" in reasons(entry)
    assert f"no learning rate was tuned for {PLUS}, {MINUS}" in reasons(entry)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree["experiments"].pop("study"), "this track has no experiment study"),
        (
            lambda tree: tree["experiments"]["study"].update(schemes=["bn", "ln"]),
            f"this track's experiment study has no row {MINUS}",
        ),
    ],
)
def test_another_track_may_lack_what_a_claim_asks(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    stand(tmp_path, written=one(advice()))
    tree = planted.experiments()
    change(tree)
    (tmp_path / "tracks" / "other").mkdir(parents=True)
    tiny.write_params(tmp_path / "tracks" / "other", tree | {"track": "other"})
    entry = judged(tmp_path, track="other")
    assert (entry["verdict"], entry["reasons"]) == ("undetermined", [said])
    assert entry["arms"] is entry["estimate"] is None


# Rule 2: failures


@pytest.mark.parametrize("status", ["diverged", "out-of-memory", "crashed"])
def test_a_failed_cell_is_named_and_decides_nothing(tmp_path: Path, status: str) -> None:
    lost = {f"{PLUS}-s1": status, f"{MINUS}-s4": status}
    entry = found(tmp_path, but(effect(0.05), lost), advice())
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == (f"2 of 12 cells failed: {PLUS}-s1 {status}, {MINUS}-s4 {status}")


def test_an_embedding_that_is_not_finite_decides_nothing(tmp_path: Path) -> None:
    entry = found(tmp_path, but(effect(0.05), {f"{MINUS}-s4": None}), advice())
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == f"{MINUS} has no finite value for seed 4"


# Rule 3: something must have been learnt


def test_where_neither_arm_has_learnt_there_is_no_verdict(tmp_path: Path) -> None:
    planned = but(effect(0.01, 0.001, level=0.19), {THIRD: 0.5})
    entry = found(tmp_path, planned, advice())
    assert entry["verdict"] == "undetermined"
    assert reasons(entry).startswith("neither arm has learnt")
    assert [entry["arms"][arm]["learnt"] for arm in ("plus", "minus")] == [False, False]


def test_where_one_arm_has_not_learnt_that_is_the_effect(tmp_path: Path) -> None:
    entry = found(tmp_path, but(effect(0.05), {MINUS: 0.2}), advice())
    assert entry["verdict"] == "supported"
    assert f"{MINUS} has learnt nothing: that is the effect" in reasons(entry)


def test_the_best_untrained_row_is_the_bar(tmp_path: Path) -> None:
    planned = but(effect(0.0, level=0.3), {CONTROLS[1]: 0.29})
    entry = found(tmp_path, planned, advice())
    assert entry["bar"] == {"accuracy": 0.31, "untrained": 0.29, "row": CONTROLS[1]}
    assert reasons(entry).startswith("neither arm has learnt")


def test_an_experiment_without_untrained_rows(tmp_path: Path) -> None:
    tree = planted.experiments()
    del tree["experiments"]["study"]["also"]
    stand(tmp_path, {"study": effect(0.05)}, one(advice()), tree=tree)
    entry = judged(tmp_path)
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == "no untrained control: experiment study has no untrained resnet"


# Rule 4: rates


@pytest.mark.parametrize(
    ("gap", "edges", "verdict", "said"),
    [
        (0.05, [MINUS], "undetermined", f"{MINUS} was the lowest or the highest"),
        (0.05, [PLUS], "supported", "significantly above zero"),
        (-0.05, [PLUS], "undetermined", f"{PLUS} was the lowest or the highest"),
        (-0.05, [MINUS], "refuted", "significantly below zero"),
        (0.05, [PLUS, MINUS], "undetermined", f"{MINUS} was the lowest or the highest"),
        (0.05, [THIRD], "supported", "significantly above zero"),
    ],
)
def test_a_verdict_does_not_rest_on_the_lower_arm_at_an_edge(
    tmp_path: Path, gap: float, edges: list[str], verdict: str, said: str
) -> None:
    entry = found(tmp_path, effect(gap), advice(), edges=edges)
    assert entry["verdict"] == verdict
    assert said in reasons(entry)
    assert entry["estimate"] is not None


@pytest.mark.parametrize("rule", ["better", "no-worse"])
def test_nothing_is_equivalent_where_an_arm_is_at_an_edge(tmp_path: Path, rule: str) -> None:
    for edge in (PLUS, MINUS):
        entry = found(tmp_path / edge, effect(0.0, 0.001), advice(rule), edges=[edge])
        assert entry["estimate"]["equivalent"]
        assert entry["verdict"] == "undetermined"
        assert f"{edge} was the lowest or the highest" in reasons(entry)


def test_a_small_effect_is_not_mixed_where_the_higher_arm_could_be_higher(tmp_path: Path) -> None:
    entry = found(tmp_path, effect(0.008, 0.001), advice(), edges=[PLUS])
    assert entry["verdict"] == "supported"


# Rule 6: confirmation


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({}, "supported", "has the same sign"),
        ({LONG["plus"]: 0.5}, "undetermined", "does not have the same sign"),
        ({f"{LONG['plus']}-s1": "diverged"}, "undetermined", "1 of 6 cells failed"),
    ],
)
def test_the_confirming_difference_must_have_the_same_sign(
    tmp_path: Path, changed: dict[str, Any], verdict: str, said: str
) -> None:
    entry = found(tmp_path, but(effect(0.05), changed), advice(confirmed_by=LONG))
    assert entry["verdict"] == verdict
    assert said in reasons(entry)
    assert entry["estimate"]["significant"]


def test_without_the_confirming_records_there_is_no_verdict(whole: Path) -> None:
    path = record_of(whole, f"{LONG['minus']}-s2")
    kept = path.read_bytes()
    path.unlink()
    try:
        entry = judged(whole)
    finally:
        path.write_bytes(kept)
    assert entry["verdict"] == "undetermined"
    assert f"not confirmed: no record of {LONG['minus']} for seed 2" in reasons(entry)


# The highest stable rate


def rated(root: Path, planned: Plan, **changes: Any) -> dict[str, Any]:
    stand(root, {"speed": planned}, one(speed(**changes)))
    return judged(root)


def test_the_highest_stable_rate_in_decades(tmp_path: Path) -> None:
    entry = rated(tmp_path, ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1}))
    assert entry["verdict"] == "supported"
    assert entry["estimate"]["mean"] == 1.0
    assert [line["plus"] for line in entry["seeds"]] == [0.0] * 6
    assert not entry["at_least"]


def test_the_higher_arm_may_be_censored_and_the_lower_may_not(tmp_path: Path) -> None:
    entry = rated(tmp_path / "higher", ladder({"bn": 10.0, "none-plain": 0.1, "ln": 0.1}))
    assert (entry["verdict"], entry["at_least"]) == ("supported", True)
    assert entry["arms"]["plus"]["at_edge"]

    def once(cell: Cell) -> Any:
        top = 10.0 if cell.seed == 3 else 0.1
        return ladder({"bn": 10.0, "none-plain": top, "ln": 0.1})(cell)

    entry = rated(tmp_path / "lower", once)
    assert (entry["verdict"], entry["at_least"]) == ("undetermined", True)
    assert "still stable under none-plain" in reasons(entry)
    entry = rated(tmp_path / "both", ladder({"bn": 10.0, "none-plain": 10.0, "ln": 0.1}))
    assert (entry["verdict"], entry["at_least"]) == ("undetermined", False)
    assert entry["estimate"]["mean"] == 0.0


def test_the_same_highest_rate_is_equivalent(tmp_path: Path) -> None:
    entry = rated(tmp_path, ladder({"bn": 1.0, "none-plain": 1.0, "ln": 0.1}))
    assert (entry["verdict"], entry["estimate"]["equivalent"]) == ("refuted", True)


@pytest.mark.parametrize("recipe", RATES)
@pytest.mark.parametrize("scheme", ["bn", "none-plain"])
def test_every_rate_and_seed_must_be_there(
    tmp_path_factory: pytest.TempPathFactory, recipe: str, scheme: str
) -> None:
    root = _ladder(tmp_path_factory)
    path = record_of(root, f"{recipe}-resnet-{scheme}-s3", "speed")
    kept = path.read_bytes()
    path.unlink()
    try:
        entry = judged(root)
    finally:
        path.write_bytes(kept)
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == f"no record of {recipe}-resnet-{scheme} for seed 3"


_made: list[Path] = []


def _ladder(factory: pytest.TempPathFactory) -> Path:
    if not _made:
        _made.append(factory.mktemp("ladder"))
        stand(_made[0], {"speed": ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1})}, one(speed()))
    return _made[0]


def test_running_out_of_memory_is_no_instability(tmp_path: Path) -> None:
    lost = "simclr-lr-10-resnet-bn-s2"
    planned = ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1})
    entry = rated(tmp_path, but(planned, {lost: "out-of-memory"}))
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert f"{lost} out-of-memory" in reasons(entry)


def test_a_seed_that_learns_at_no_rate_has_no_value(tmp_path: Path) -> None:
    planned = ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1})
    flat = {f"{recipe}-resnet-none-plain-s2": 0.21 for recipe in RATES}
    entry = rated(tmp_path, but(planned, flat))
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == "none-plain has learnt at no rate for seed 2"


@pytest.mark.parametrize(
    ("accuracies", "highest"),
    [
        ({0.1: 0.5, 1.0: 0.46, 10.0: 0.44}, 1.0),
        ({0.1: 0.5, 1.0: 0.3, 10.0: 0.48}, 10.0),
        ({0.1: 0.5, 1.0: None, 10.0: None}, 0.1),
        ({0.1: 0.1, 1.0: 0.15, 10.0: None}, None),
        ({0.1: None}, None),
    ],
)
def test_the_highest_rate_near_the_best_one(
    accuracies: dict[float, float | None], highest: float | None
) -> None:
    assert highest_stable(accuracies, 0.05, 0.2) == highest


# Records


def test_a_record_of_another_configuration_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand(tmp_path, {"study": effect(0.05)}, one(advice()))
    tree = planted.experiments()
    tree["methods"]["simclr"]["options"]["temperature"] = 0.3
    tiny.write_params(tmp_path, tree)
    monkeypatch.chdir(tmp_path)
    said = tiny.refusal(capsys, "claims")
    assert f"the record of {PLUS}-s0 is of another configuration" in said
    assert not (tmp_path / "results/mini/claims.json").exists()


def test_two_records_of_one_cell_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand(tmp_path, {"study": effect(0.05)}, one(advice()))
    path = record_of(tmp_path, LABELS[0])
    shutil.copy(path, path.with_name("other.json"))
    monkeypatch.chdir(tmp_path)
    assert f"two records of {LABELS[0]}" in tiny.refusal(capsys, "claims")
