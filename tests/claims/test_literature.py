"""The literature says what its file says, and compares with planted records as they were planted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmark.analysis.claims import literature, load
from benchmark.config import params
from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.report.claims import literature_page, write
from benchmark.results.rows import RecordIndex
from tests.helpers import planted, tiny
from tests.helpers.claimed import Planted, grid, plant, stand, tree, yaml

BN, GN = "simclr-resnet-bn", "simclr-resnet-gn"
HIGH, LOW = [0.60, 0.62, 0.61], [0.41, 0.40, 0.42]
ORDERING = {"experiment": "first", "metric": "knn_reestimated", "higher": BN, "lower": GN}
READ = {
    "claims": ["C1", "C6"],
    "source": "Doe, A norm | of her own",
    "at": "1234.56789",
    "place": "table 1",
    "year": 2020,
    "setting": "Somewhere else",
    "result": "BN 70.1, GN 65.2",
    "status": "A",
    "compare": [ORDERING],
}
QUOTED = {
    "claims": ["C6"],
    "source": "Roe, Hearsay",
    "at": "https://example.org/roe",
    "year": None,
    "setting": "Elsewhere",
    "result": "LN 50.3",
    "status": "B",
    "not_comparable": "There is no such thing here.",
}


def library(root: Path, **changes: Any) -> RecordIndex:
    """A project with two entries and one experiment, the first entry with changes."""
    index = stand(root, tree(first=grid("bn", "gn")))
    yaml(root / "literature.yaml", {"entries": {"doe": {**READ, **changes}, "roe": QUOTED}})
    return index


def another(root: Path, name: str, **experiments: Any) -> RecordIndex:
    """A further track of the project, with these experiments."""
    folder = root / "tracks" / name
    folder.mkdir(parents=True)
    tiny.write_params(folder, {**tree(**experiments), "track": name})
    return RecordIndex(root, params.read(folder / "params.yaml"))


def judged(
    root: Path, higher: Sequence[Planted], lower: Sequence[Planted]
) -> literature.Comparison:
    index = library(root)
    plant(index, "first", {BN: higher, GN: lower})
    (ordering,) = literature.read(root).entries["doe"].compare
    found = literature.compare_rows(ordering, index)
    assert found is not None
    assert literature.compare(literature.read(root).entries["doe"], index) == found.word
    return found


@pytest.mark.parametrize(
    ("higher", "lower", "word"),
    [
        (HIGH, LOW, "agrees"),
        (LOW, HIGH, "disagrees"),
        (HIGH, [0.60, 0.61, 0.62], "undecided"),
        (HIGH, [0.60, 0.61, 0.59], "undecided"),
        (HIGH, LOW[:2], "not yet run"),
        ([], [], "not yet run"),
        (HIGH, [0.41, 0.40, "diverged"], "undecided"),
        (HIGH, ["diverged"] * 3, "undecided"),
    ],
    ids=str,
)
def test_the_words(tmp_path: Path, higher: list[Planted], lower: list[Planted], word: str) -> None:
    assert judged(tmp_path, higher, lower).word == word


def test_the_interval_against_an_independent_calculation(tmp_path: Path) -> None:
    found = judged(tmp_path, HIGH, LOW)
    expected = stats.ttest_ind(HIGH, LOW).confidence_interval(0.95)
    assert found.difference is not None
    assert found.half is not None
    ends = [found.difference - found.half, found.difference + found.half]
    assert ends == pytest.approx([expected.low, expected.high])


def test_rows_with_other_numbers_of_seeds_are_paired_on_those_of_both(tmp_path: Path) -> None:
    found = grid("bn", also=[{"methods": ["simclr"], "backbones": ["resnet"], "schemes": ["gn"]}])
    found["also"][0]["seeds"] = [0, 1]
    index = stand(tmp_path, tree(first=found))
    yaml(tmp_path / "literature.yaml", {"entries": {"doe": READ}})
    plant(index, "first", {BN: [0.60, 0.62, 0.70], GN: [0.50, 0.51]})
    (ordering,) = literature.read(tmp_path).entries["doe"].compare
    said = literature.compare_rows(ordering, index)
    assert said is not None
    assert said.difference == pytest.approx(0.105)
    spread = math.sqrt((2 * 0.0028 + 0.00005) / 3)
    assert said.half == pytest.approx(stats.t.ppf(0.975, 3) * spread, rel=1e-3)


def test_a_metric_of_its_own(tmp_path: Path) -> None:
    index = library(
        tmp_path, compare=[{**ORDERING, "metric": "pretext", "higher": GN, "lower": BN}]
    )
    plant(index, "first", {BN: HIGH, GN: LOW}, pretext={BN: 0.3, GN: 0.4})
    assert literature.compare(literature.read(tmp_path).entries["doe"], index) == "agrees"


def test_several_orderings_have_one_word_where_they_have_the_same(tmp_path: Path) -> None:
    other = {**ORDERING, "higher": GN, "lower": BN}
    index = library(tmp_path, compare=[ORDERING, other])
    plant(index, "first", {BN: HIGH, GN: LOW})
    entries = literature.read(tmp_path).entries
    assert literature.compare(entries["doe"], index) == "undecided"
    assert literature.compare(entries["roe"], index) == "not comparable"


def test_a_claim_has_the_word_of_the_orderings_that_bear_on_it(tmp_path: Path) -> None:
    wrong = {**ORDERING, "higher": GN, "lower": BN, "claims": []}
    index = library(tmp_path, compare=[{**ORDERING, "claims": ["C1"]}, wrong])
    plant(index, "first", {BN: HIGH, GN: LOW})
    entry = literature.read(tmp_path).entries["doe"]
    assert literature.compare(entry, index, "C1") == "agrees"
    assert literature.compare(entry, index, "C2") == "not comparable"
    assert literature.compare(entry, index) == "undecided"


def test_an_ordering_bears_on_claims_of_its_entry_alone(tmp_path: Path) -> None:
    library(tmp_path, compare=[{**ORDERING, "claims": ["C7"]}])
    with pytest.raises(UserError, match=r"unknown claim of an ordering in literature\.yaml: doe"):
        literature.read(tmp_path)


def test_where_one_of_several_orderings_is_not_run_the_entry_is_not(tmp_path: Path) -> None:
    index = stand(tmp_path, tree(first=grid("bn", "gn"), second=grid("bn", "gn")))
    orderings = [ORDERING, {**ORDERING, "experiment": "second"}]
    yaml(tmp_path / "literature.yaml", {"entries": {"doe": {**READ, "compare": orderings}}})
    plant(index, "first", {BN: HIGH, GN: LOW})
    assert literature.compare(literature.read(tmp_path).entries["doe"], index) == "not yet run"


def columns(text: str) -> dict[str, list[str]]:
    """The page's table of orderings: the columns of the tracks, by their names."""
    (table,) = re.findall(r"^## Orderings by track$.*?(^\|.*?)^$", text, re.S | re.M)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {name: [row[n] for row in rows[2:]] for n, name in enumerate(rows[0]) if n > 2}


def test_a_track_without_the_experiment_is_not_compared(tmp_path: Path) -> None:
    index = library(tmp_path)
    another(tmp_path, "other", second=grid("bn"))
    plant(index, "first", {BN: HIGH, GN: LOW})
    indexes = literature.indexes(tmp_path)
    assert list(indexes) == ["mini", "other"]
    found = literature.read(tmp_path)
    assert literature.compare(found.entries["doe"], indexes["other"]) == "not comparable"
    text = literature_page.markdown(found, indexes)
    assert columns(text) == {"mini": ["**agrees** (+20.0 ± 2.3 points)"], "other": ["—"]}
    assert "| mini **agrees** |" in text
    text = literature_page.markdown(found, {"other": indexes["other"]})
    assert "| on none of these tracks |" in text


def test_two_tracks_that_differ_are_told_side_by_side(tmp_path: Path) -> None:
    """The words, the page and each track's claims.json, from records of opposite order."""
    mini = library(tmp_path)
    asked = planted.advice(experiment="first")
    claims = planted.claims(
        C1=planted.claim(asked, literature=["doe", "roe"]), C6=planted.claim(None)
    )
    yaml(tmp_path / "claims.yaml", claims)
    # Not in the order of their names, and the second has an ordering that mini lacks.
    zoo = another(tmp_path, "zoo", first=grid("bn", "gn"), only=grid("bn", "gn"))
    another(tmp_path, "art", first=grid("bn", "gn"))
    second = {**QUOTED, "compare": [{**ORDERING, "experiment": "only"}]}
    del second["not_comparable"]
    yaml(tmp_path / "literature.yaml", {"entries": {"doe": READ, "roe": second}})
    plant(mini, "first", {BN: HIGH, GN: LOW})
    plant(zoo, "first", {BN: LOW, GN: HIGH})
    plant(zoo, "only", {BN: HIGH, GN: [0.60, 0.61, 0.62]})
    page = tmp_path / "results" / "literature.md"
    expected = {
        "mini": ["**agrees** (+20.0 ± 2.3 points)", "—"],
        "zoo": ["**disagrees** (-20.0 ± 2.3 points)", "**undecided** (+0.0 ± 2.3 points)"],
    }
    words = {
        "mini": {"doe": "agrees", "roe": "not comparable"},
        "zoo": {"doe": "disagrees", "roe": "undecided"},
    }
    pages = []
    for track, expectation in words.items():
        write.write(tmp_path, track)
        pages.append(page.read_text(encoding="utf-8"))
        document = json.loads((tmp_path / "results" / track / "claims.json").read_text("utf-8"))
        assert document["claims"][0]["literature"] == expectation
    # One page, whichever track is judged.
    assert pages[0] == pages[1]
    assert columns(pages[0]) == expected
    assert "| mini **agrees**, zoo **disagrees** |" in pages[0]
    assert "| zoo **undecided** |" in pages[0]
    # A track without records has a column once its claims have been judged, and keeps it.
    write.write(tmp_path, "art")
    judged_too = page.read_text(encoding="utf-8")
    assert columns(judged_too) == {
        "mini": expected["mini"],
        "art": ["**not yet run**", "—"],
        "zoo": expected["zoo"],
    }
    write.write(tmp_path, "mini")
    assert page.read_text(encoding="utf-8") == judged_too


def test_a_row_on_each_of_two_tracks_is_not_an_ordering(tmp_path: Path) -> None:
    stand(tmp_path, tree(first=grid("bn")))
    another(tmp_path, "other", first=grid("gn"))
    yaml(tmp_path / "literature.yaml", {"entries": {"doe": READ}})
    with pytest.raises(UserError, match=f"doe: no track has both {BN} and {GN} in its first"):
        literature.read(tmp_path)


def test_a_level_bears_on_no_claim(tmp_path: Path) -> None:
    library(tmp_path)
    level = {**QUOTED, "claims": [], "source": "Poe, Levels"}
    yaml(tmp_path / "literature.yaml", {"entries": {"poe": level, "roe": QUOTED}})
    text = literature_page.markdown(literature.read(tmp_path), {})
    claims, levels = text.split("\n## Levels of other benchmarks\n")
    assert ("Poe" in claims, "Poe" in levels) == (False, True)
    assert ("Roe" in claims, "Roe" in levels) == (True, False)
    library(tmp_path)
    assert "Levels" not in literature_page.markdown(literature.read(tmp_path), {})


def test_the_page_shows_every_entry_under_its_claims_and_marks_what_was_quoted(
    tmp_path: Path,
) -> None:
    index = library(tmp_path)
    plant(index, "first", {BN: HIGH, GN: LOW})
    found = literature.read(tmp_path)
    text = literature_page.markdown(found, {"mini": index})
    assert text == literature_page.markdown(found, literature.indexes(tmp_path))
    sections = dict(re.findall(r"^## (C\d[ab]?): [^\n]*\n(.*?)(?=^## |\Z)", text, re.S | re.M))
    assert list(sections) == list(load.read(tmp_path).claims)
    of_doe = [claim for claim, section in sections.items() if "Doe" in section]
    of_roe = [claim for claim, section in sections.items() if "Roe" in section]
    assert (of_doe, of_roe) == (["C1", "C6"], ["C6"])
    (doe,) = (row for row in sections["C6"].splitlines() if "Doe" in row)
    (roe,) = (row for row in sections["C6"].splitlines() if "Roe" in row)
    assert "| **quoted** | not comparable: There is no such thing here. |" in roe
    assert "| read | " in doe
    assert "quoted" not in doe
    assert r"A norm \| of her own (2020), [1234.56789](https://arxiv.org/abs/1234.56789)" in doe
    assert "No published result is known to us." in sections["C2"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"setings": "x"}, "'entries.doe.setings'; did you mean 'entries.doe.setting'"),
        ({"status": "C"}, "entries.doe.status is 'C'"),
        ({"claims": ["C11"]}, "unknown claim in literature.yaml: doe 'C11'; did you mean 'C1'"),
        ({"compare": [{**ORDERING, "lower": "simclr-resnet-gm"}]}, f"did you mean '{GN}'"),
        ({"compare": [{**ORDERING, "experiment": "frist"}]}, "did you mean 'first'"),
        ({"compare": [{**ORDERING, "metric": "linear"}]}, "metric is 'linear'"),
        ({"compare": []}, "doe: needs either compare or not_comparable"),
        ({"not_comparable": "x"}, "doe: needs either compare or not_comparable"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    library(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        literature.read(tmp_path)
    assert said in str(refused.value)


def test_a_project_without_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no literature\.yaml"):
        literature.read(tmp_path)


def test_the_projects_library_and_its_claims_name_each_other() -> None:
    entries = literature.read(tiny.PROJECT).entries
    for name, claim in load.read(tiny.PROJECT).claims.items():
        sources = claim.description.sources if claim.description else ()
        for source in (*claim.literature, *sources):
            assert name in entries[source].claims, (name, source)


def test_the_projects_library_says_where_its_figures_are_from() -> None:
    """An arXiv number, an address or a venue; and what was not read is marked in the page."""
    library = literature.read(tiny.PROJECT)
    for name, entry in library.entries.items():
        assert re.fullmatch(r"\d{4}\.\d{5}|https://\S+|ICCV workshops", entry.at), name
        if entry.at[4] == ".":
            # The number has the year and the month; a venue may follow a year later.
            assert entry.year is not None
            assert entry.year - 2000 - int(entry.at[:2]) in (0, 1), name
            assert 1 <= int(entry.at[2:4]) <= 12, name
    text = literature_page.markdown(library, {})
    quoted = {name for name, entry in library.entries.items() if entry.status == "B"}
    assert quoted == {"byol-sections"}
    rows = [row for row in text.splitlines() if "65.7" in row]
    assert len(rows) == len(library.entries["byol-sections"].claims)
    assert all("| **quoted** |" in row for row in rows)


def test_the_rows_that_the_projects_library_calls_nearest_exist() -> None:
    """Each row named in a reason is one of an experiment that the reason names."""
    found = params.read(tiny.PROJECT / "params.yaml")
    rows = {name: {str(row) for row in plan.rows(found, name)} for name in found.experiments}
    checked = 0
    for name, entry in literature.read(tiny.PROJECT).entries.items():
        reason = entry.not_comparable or ""
        named = re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*-(?:resnet|vit)-[a-z0-9-]+", reason)
        there = [rows[word] for word in re.findall(r"[a-z-]+", reason) if word in rows]
        for row in named:
            assert any(row in own for own in there), (name, row)
            checked += 1
    assert checked > 20


NEW = {
    "sepnorm": ["93.84 92.01", "59.02 52.54", "89.18 88.97", "32.51 27.63"],
    "ijepa-target": ["38.0", "42.7"],
    "derf": ["1.95 1.95 1.93", "1.92 1.91 1.90", "82.3 82.5 82.8", "83.1 83.6 83.8"],
    "dyt-regimes": ["27.3", "18.8"],
    "spark": ["80.6", "82.2", "82.7", "83.1"],
    "asym-siam": ["65.8", "66.3"],
    "eb-jepa-level": ["91.02"],
    "dtn": ["79.9", "77.3", "77.7", "78.3", "80.1", "80.0", "79.8", "80.6"],
}
"""Figures of the sources' tables, each string a row or a cell, in the sources' order."""


@pytest.mark.parametrize("name", NEW)
def test_the_figures_of_a_source_are_those_of_its_table(name: str) -> None:
    """With the decimals that the source prints, in its order, and no others of that form."""
    entry = literature.read(tiny.PROJECT).entries[name]
    shown = re.findall(r"\d+\.\d+", entry.result)
    derived = {"dtn": ["2.6"]}.get(name, [])
    assert [one for one in shown if one not in derived] == " ".join(NEW[name]).split()


def test_dtns_difference_is_that_of_its_figures() -> None:
    ln, bn = (float(own) for own in NEW["dtn"][:2])
    assert f"costs {ln - bn:.1f} points" in literature.read(tiny.PROJECT).entries["dtn"].result


def test_equal_numbers_of_names_and_figures() -> None:
    """In tables told as `NAME a and b`, each method has both of its figures."""
    entries = literature.read(tiny.PROJECT).entries
    for name, methods, pattern in (
        ("stable-pretraining-levels", 10, r"[A-Za-z][A-Za-z0-9 ]+ \d\d\.\d and \d\d\.\d"),
        ("lightly-sync-bn", 6, r"[A-Za-z][A-Za-z ]+ \.\d\d and \.\d\d"),
        ("lightly-levels", 7, r"[A-Za-z][A-Za-z ]+ \d\d\.\d, \d\d\.\d, \d\d\.\d"),
    ):
        told = entries[name].result.split(": ", 1)[1]
        assert len(re.findall(pattern, told)) == methods, name
