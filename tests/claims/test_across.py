"""Verdicts across tracks: what each track shows, whether they agree, and what cannot be compared."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmark.analysis.claims import across, tracks
from benchmark.cli import parser
from benchmark.core.errors import UserError
from benchmark.report.claims import across as written
from tests.helpers import sided, tiny
from tests.helpers.made_up import PROJECT
from tests.helpers.sided import LACKING, NAMES, SHOWN, document, stand

ALL = [*SHOWN, *LACKING]
PAGES = ["verdicts.md", "verdicts.json", "what-to-believe.md"]


def side_by_side(root: Path, *cases: str) -> dict[str, across.Across]:
    names = ["mini", "cifar10", "stl10"]
    found = [
        document(track, dict.fromkeys(NAMES, case))
        for track, case in zip(names, cases, strict=False)
    ]
    stand(root, *found)
    return {entry.claim.id: entry for entry in across.compare(tracks.read(root))}


@pytest.mark.parametrize("case", ALL)
def test_a_track_shows_what_its_estimate_shows_or_why_it_does_not(
    tmp_path: Path, case: str
) -> None:
    for entry in side_by_side(tmp_path, case).values():
        (view,) = entry.views
        assert view.shown == (case if case in SHOWN else None)
        assert view.why == LACKING.get(case)
        assert view.verdict == sided.verdict(entry.advice.rule, case)
        # Without a verdict there is a number only if every seed is there and has learnt.
        assert (view.finding is None) == (case in LACKING and case != "wide")


def expected(rule: str, one: str, other: str) -> str:
    """What the word for two tracks must be, from the table of docs/claims.md alone."""
    decided = [case for case in (one, other) if case in SHOWN]
    if len(decided) < 2:
        return "one track" if decided else "undecided"
    words = {sided.verdict(rule, case) for case in decided}
    if sided.differ(rule, decided):
        return "differ"
    return "agree" if len(words) == 1 else "agree in part"


@pytest.mark.parametrize(("one", "other"), list(itertools.product(ALL, ALL)))
def test_verdicts_that_differ_are_told_so(tmp_path: Path, one: str, other: str) -> None:
    for entry in side_by_side(tmp_path, one, other).values():
        assert entry.agreement == expected(entry.advice.rule, one, other)


def test_the_difference_between_tracks_is_welchs(tmp_path: Path) -> None:
    one, other = [1.0, 1.4, 0.7, 1.9, 1.2], [0.2, 0.5, -0.3, 0.9, 0.1, 0.8, 0.0]
    cases = dict.fromkeys(NAMES, "above")
    found = [document("mini", cases), document("cifar10", cases)]
    for values, own in zip((one, other), found, strict=True):
        changed = own["claims"][0]["advice"]["estimate"]
        changed["mean"], changed["df"] = sum(values) / len(values), len(values) - 1
        changed["se"] = float(stats.sem(values))
    stand(tmp_path, *found)
    (gap,) = across.compare(tracks.read(tmp_path))[0].gaps
    tested = stats.ttest_ind(one, other, equal_var=False)
    interval = tested.confidence_interval(1 - 0.05 / 10)
    assert gap.tracks == ("mini", "cifar10")
    assert gap.mean == pytest.approx(sum(one) / 5 - sum(other) / 7)
    assert (gap.low, gap.high) == pytest.approx((interval.low, interval.high))
    assert gap.significant == (tested.pvalue <= 0.05 / 10)


def test_a_bound_is_not_compared_with_an_estimate(tmp_path: Path) -> None:
    cases = dict.fromkeys(NAMES, "above")
    found = [document("mini", cases), document("cifar10", cases)]
    found[0]["claims"][0]["advice"]["at_least"] = True
    stand(tmp_path, *found)
    bound, *others = across.compare(tracks.read(tmp_path))
    assert not bound.gaps
    assert all(len(entry.gaps) == 1 for entry in others)
    page = written.contents(tmp_path)[tmp_path / "results/what-to-believe.md"]
    assert re.search(r"`mini` at least \+0.50 \(above \+0.3\d\) decades", page)


def test_other_rates_and_images_are_judged_by_what_they_would_show(tmp_path: Path) -> None:
    """A verdict can stay while what it rests on does not: refuted by equivalence, then by a loss."""
    found = document("mini", dict.fromkeys(NAMES, "equivalent"))
    (own,) = (claim["advice"] for claim in found["claims"] if claim["id"] == "C2")
    steps = [(-0.04, "refuted"), (0.04, "supported"), (0.0021, "refuted"), (None, None)]
    own["sensitivity"] = {"steps": [{"estimate": value, "verdict": word} for value, word in steps]}
    own["other_images"] = {"se": 0.02, "verdict": "undetermined"}
    stand(tmp_path, found)
    entry = {entry.claim.id: entry for entry in across.compare(tracks.read(tmp_path))}["C2"]
    assert entry.views[0].steps == {"below": 1, "above": 1, "equivalent": 1, "unknown": 1}
    assert entry.views[0].images == "undetermined"
    page = written.contents(tmp_path)[tmp_path / "results/what-to-believe.md"]
    assert ", 2 of 4 rate steps (1 unknown) change it, not shown over test images." in page


def test_an_arm_that_learnt_nothing_is_the_effect(tmp_path: Path) -> None:
    found = document("mini", {"C2": "above"})
    found["claims"][1]["advice"]["arms"]["minus"]["learnt"] = False
    stand(tmp_path, found)
    page = written.contents(tmp_path)[tmp_path / "results/what-to-believe.md"]
    assert ", `minus` has learnt nothing, rate not tuned." in page


def test_an_arm_at_an_edge_shows_no_equivalence(tmp_path: Path) -> None:
    found = document("mini", {"C2": "above_equivalent"})
    own = found["claims"][1]["advice"]
    own["arms"]["plus"]["at_edge"], own["verdict"] = True, "supported"
    stand(tmp_path, found)
    assert across.compare(tracks.read(tmp_path))[1].views[0].shown == "above"


def change(path: str, value: Any) -> Callable[[Any], None]:
    def apply(found: Any) -> None:
        *folders, key = path.split(".")
        for name in folders:
            found = found[int(name) if name.isdigit() else name]
        found[key] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema", 2, "results/cifar10/claims.json: schema is 2, expected 3: run `uv run benchmark "),
        ("version", 3, "version is 3, and 4 in results/mini/claims.json"),
        ("level", 0.1, "level is 0.1, and 0.05 in"),
        ("comparisons", 9, "comparisons is 9, and 10 in"),
        ("track", "cifar100", "track is 'cifar100', expected 'cifar10'"),
        ("overrides", {"title": "x"}, "was judged with --set (title)"),
        ("claims.0.id", "C11", "claims is ['C11', 'C2',"),
        ("claims.1.advice.margin", 0.05, "C2.margin is 0.05, and 0.02 in"),
        ("claims.1.advice.plus", "another", "C2.plus is 'another', and 'simclr-resnet-bn' in"),
        ("claims.1.sentence", "Other.", "C2.sentence is 'Other.', and 'SimCLR puts"),
        ("claims.1.description", None, "C2.description is None, and {"),
        ("claims.1.advice.verdict", "refuted", "C2: verdict is refuted, but its estimate gives supp"),
        ("claims.1.advice.rule", "best", "rule is 'best'"),
        ("claims.1.advice.estimate", {}, "advice.estimate is {}: key 'mean' is missing"),
        ("claims", [], "claims is []"),
    ],
)  # fmt: skip
def test_documents_that_cannot_be_compared_are_refused_in_one_line(
    tmp_path: Path, path: str, value: Any, said: str
) -> None:
    cases = dict.fromkeys(NAMES, "above")
    stand(tmp_path, document("mini", cases), document("cifar10", cases))
    file = tmp_path / "results/cifar10/claims.json"
    found = json.loads(file.read_text())
    change(path, value)(found)
    file.write_text(json.dumps(found))
    with pytest.raises(UserError) as refused:
        written.write(tmp_path)
    assert said in str(refused.value)
    assert "cifar10/claims.json" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not any((tmp_path / "results" / name).exists() for name in PAGES)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": "two"}', "\xff"])
def test_rubbish_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    stand(tmp_path, document("mini", {}))
    (tmp_path / "results/mini/claims.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"^mini/claims\.json|^results/mini/claims\.json"):
        written.write(tmp_path)


def test_without_verdicts_the_command_to_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run `uv run benchmark claims` first" in tiny.refusal(capsys, "verdicts")
    stand(tmp_path, document("mini", {"C2": "above"}))
    assert parser.main(["verdicts"]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == PAGES


def test_the_published_pages_are_those_of_the_published_verdicts() -> None:
    for path, content in written.contents(PROJECT).items():
        assert path.read_text(encoding="utf-8") == content, "run `uv run benchmark verdicts`"


def test_dvc_watches_every_track_that_has_verdicts() -> None:
    from benchmark.config import yaml_file

    stage = yaml_file.load(PROJECT / "tracks/verdicts/dvc.yaml")["stages"]["verdicts"]
    for found in tracks.read(PROJECT):
        assert f"results/{found.track}/claims.json" in stage["deps"]
