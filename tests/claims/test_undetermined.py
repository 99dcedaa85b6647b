"""Nothing is said of a part of the data, of failures, of what learnt nothing, of a rate at its edge."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import planted, tiny
from tests.helpers.planted import (
    MINUS,
    PLUS,
    SEEDS,
    THIRD,
    advice,
    but,
    effect,
    found,
    judged,
    one,
    reasons,
    record_of,
    stand,
    without,
)

LABELS = [f"{row}-s{seed}" for row in (PLUS, MINUS) for seed in SEEDS]
LONG = {**planted.LONG, "differs": ["norms"]}
UNTRAINED = ["untrained-resnet-bn", "untrained-resnet-gn"]
PIXELS = "raw-pixels-pixels-none"
NO_BAR = "no bar from which on a row has learnt:"


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
    with without(whole, label):
        entry = judged(whole)
    row, seed = label.rsplit("-s", 1)
    assert entry["verdict"] == "undetermined"
    assert entry["estimate"] is None
    assert entry["correlation"] is None
    assert all(line["difference"] is None for line in entry["seeds"])
    assert reasons(entry) == f"no record of {row} for seed {seed}"
    (lost,) = (cell for cell in entry["cells"] if cell["sha256"] is None)
    assert (lost["name"], lost["status"]) == (f"mini/study/{label}", "missing")


@pytest.mark.parametrize(("control", "seed"), [(UNTRAINED[0], 1), (UNTRAINED[1], 1), (PIXELS, 0)])
def test_without_a_control_there_is_no_verdict(whole: Path, control: str, seed: int) -> None:
    with without(whole, f"{control}-s{seed}"):
        entry = judged(whole)
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == f"{NO_BAR} no record of every seed of {control}"


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
    planned = but(effect(0.0, level=0.3), {UNTRAINED[1]: 0.29})
    entry = found(tmp_path, planned, advice())
    bar = {"accuracy": 0.31, "untrained": 0.29, "raw_pixels": 0.15, "row": UNTRAINED[1]}
    assert entry["bar"] == bar
    assert reasons(entry).startswith("neither arm has learnt")


def test_raw_pixels_are_the_bar_where_they_are_better(tmp_path: Path) -> None:
    """What is far above an untrained network and below the pixels has learnt nothing of use."""
    entry = found(tmp_path / "both", but(effect(0.05, level=0.4), {PIXELS: 0.5}), advice())
    assert entry["bar"]["accuracy"] == 0.52
    assert entry["verdict"] == "undetermined"
    assert reasons(entry).startswith("neither arm has learnt")
    assert f"({PIXELS} has 50.0 %)" in reasons(entry)
    entry = found(tmp_path / "one", but(effect(0.05, level=0.4), {PIXELS: 0.4}), advice())
    assert [entry["arms"][arm]["learnt"] for arm in ("plus", "minus")] == [True, False]
    assert entry["verdict"] == "supported"


@pytest.mark.parametrize(
    ("kept", "lost"),
    [
        ([], "no untrained resnet and no raw pixels"),
        (["untrained"], "no raw pixels"),
        (["raw-pixels"], "no untrained resnet"),
    ],
    ids=str,
)
def test_an_experiment_without_both_controls_has_no_bar(
    tmp_path: Path, kept: list[str], lost: str
) -> None:
    tree = planted.experiments()
    study = tree["experiments"]["study"]
    study["also"] = [grid for grid in study["also"] if grid["methods"][0] in kept]
    stand(tmp_path, {"study": effect(0.05)}, one(advice()), tree=tree)
    entry = judged(tmp_path)
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert entry["bar"]["accuracy"] is None
    assert reasons(entry) == f"{NO_BAR} experiment study has {lost}"


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
    with without(whole, f"{LONG['minus']}-s2"):
        entry = judged(whole)
    assert entry["verdict"] == "undetermined"
    assert f"not confirmed: no record of {LONG['minus']} for seed 2" in reasons(entry)


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
    (path.parents[1] / "other").mkdir()
    shutil.copy(path, path.parents[1] / "other")
    monkeypatch.chdir(tmp_path)
    line = tiny.refusal(capsys, "claims")
    assert f"the record of mini/study/{LABELS[0]} belongs in {path}" in line
