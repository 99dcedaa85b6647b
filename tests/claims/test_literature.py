"""The literature says what its file says, and compares with planted records as they were planted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmark.analysis.claims import literature, load
from benchmark.core.errors import UserError
from benchmark.report.claims import literature_page
from benchmark.results.rows import RecordIndex
from tests.helpers import tiny
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


def test_where_one_of_several_orderings_is_not_run_the_entry_is_not(tmp_path: Path) -> None:
    index = stand(tmp_path, tree(first=grid("bn", "gn"), second=grid("bn", "gn")))
    orderings = [ORDERING, {**ORDERING, "experiment": "second"}]
    yaml(tmp_path / "literature.yaml", {"entries": {"doe": {**READ, "compare": orderings}}})
    plant(index, "first", {BN: HIGH, GN: LOW})
    assert literature.compare(literature.read(tmp_path).entries["doe"], index) == "not yet run"


def test_a_track_without_the_experiment_is_not_compared(tmp_path: Path) -> None:
    index = library(tmp_path)
    folder = tmp_path / "tracks" / "other"
    folder.mkdir(parents=True)
    tiny.write_params(folder, {**tree(second=grid("bn")), "track": "other"})
    plant(index, "first", {BN: HIGH, GN: LOW})
    indexes = literature.indexes(tmp_path)
    assert list(indexes) == ["mini", "other"]
    entry = literature.read(tmp_path).entries["doe"]
    assert literature.compare(entry, indexes["other"]) == "not comparable"
    text = literature_page.markdown(literature.read(tmp_path), indexes)
    assert "mini **agrees** (+20.0 ± 2.3 points)" in text
    assert "other **" not in text
    text = literature_page.markdown(literature.read(tmp_path), {"other": indexes["other"]})
    assert "on none of these tracks" in text


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
    text = literature_page.markdown(library, {})
    quoted = {name for name, entry in library.entries.items() if entry.status == "B"}
    assert quoted == {"byol-sections"}
    rows = [row for row in text.splitlines() if "65.7" in row]
    assert len(rows) == len(library.entries["byol-sections"].claims)
    assert all("| **quoted** |" in row for row in rows)
