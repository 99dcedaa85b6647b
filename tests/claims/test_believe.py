""" "What to believe" states nothing that the verdicts do not show."""

from __future__ import annotations

import itertools
import re
import textwrap
from pathlib import Path

import pytest

from benchmark.core.errors import UserError
from benchmark.report.claims import across
from tests.helpers.made_up import PROJECT
from tests.helpers.sided import LACKING, NAMES, PUBLISHED, SHOWN, differ, document, stand, verdict

ALL = [*SHOWN, *LACKING]
METRICS = {claim["id"]: claim["advice"] for claim in PUBLISHED["claims"]}

DIFFERENCE = re.compile(
    r"\b(better|worse|higher learning rates|more often|less often|more on|less on)\b"
)
SAME = re.compile(r"\b(equivalence within|as well|as often|same learning rate|same degree)\b")
CERTAIN = re.compile(
    r"\b(prov\w+|always|never|certain\w*|clear\w*|must|best|everywhere|in general|significan\w+)\b",
    re.IGNORECASE,
)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?")


def page(root: Path, *cases: dict[str, str]) -> str:
    stand(root, *(document(t, c) for t, c in zip(["mini", "cifar10"], cases, strict=False)))
    return across.contents(root)[root / "results/what-to-believe.md"]


def blocks(text: str) -> dict[str, str]:
    """The lines of each decided claim."""
    part = text.split("## Which norm where")[1].split("\n## ")[0]
    found = re.findall(r"^- \*\*.*?(?=^- \*\*|\Z)", part, re.MULTILINE | re.DOTALL)
    return {re.search(r"#(c\d[ab]?)\)", block)[1]: block for block in found}  # type: ignore[index]  # it is there


def visible(text: str) -> str:
    """The text as a reader sees it: links without targets, names of code left out."""
    return re.sub(r"`[^`]*`", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", "", text))


def numbers(claim: str, case: str) -> set[str]:
    """All numbers that a track's evidence of a claim may hold."""
    own = METRICS[claim]
    scale = 1 if claim == "C1" else 100
    mean, half = (own["margin"] * size for size in SHOWN[case])
    values = (mean, mean - half, mean + half)
    return {f"{scale * value:+.2f}" for value in values} | {"16", f"{scale * own['margin']:.3g}"}


@pytest.mark.parametrize("pair", list(itertools.product(ALL, ALL)), ids="-".join)
def test_a_sentence_states_what_is_shown_and_no_more(tmp_path: Path, pair: tuple[str, str]) -> None:
    decided = [case for case in pair if case in SHOWN]
    text = page(tmp_path, *(dict.fromkeys(NAMES, case) for case in pair))
    found = blocks(text)
    assert len(found) == (len(NAMES) if decided else 0)
    assert not CERTAIN.search(
        visible(text.split("## Where the article")[0]).replace("does not confirm", "")
    )
    signs = [case.removesuffix("_equivalent") for case in decided]
    for name in NAMES if decided else ():
        block, rule = found[name.lower()], METRICS[name]["rule"]
        head, evidence = block.strip().splitlines()
        assert evidence.count("16 seeds") == len(decided)
        shown = visible(head)
        # A difference is worded only if there is one, and equivalence only if it is shown.
        advised = "*" in shown.split("**", 2)[2].replace("**The tracks differ:**", "")
        assert bool(SAME.search(shown)) == ("equivalent" in decided)
        assert bool(DIFFERENCE.search(shown)) == any(sign != "equivalent" for sign in signs)
        small = "by less than the margin of" in shown
        assert small == any(case.endswith("_equivalent") for case in decided)
        # One outcome on all tracks that decide, and not a small one, is advice.
        assert advised == (len(set(decided)) == 1 and not small)
        assert ("The tracks differ" in shown) == (len(decided) > 1 and differ(rule, decided))
        assert ("the opposite" in shown) == ({"above", "below"} <= set(signs))
        for track, case in zip(("mini", "cifar10"), pair, strict=True):
            if case in LACKING:
                assert f"On `{track}` not decided: {LACKING[case]}." in head
            else:
                assert re.search(rf"[Oo]n (`mini` and )?`{track}`", head)
        allowed = set().union(*(numbers(name, case) for case in decided))
        assert set(NUMBER.findall(visible(block))) <= allowed


@pytest.mark.parametrize("pair", list(itertools.product(LACKING, LACKING)), ids="-".join)
def test_an_undecided_claim_has_its_reasons_and_no_number_of_a_part(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    text = page(tmp_path, *(dict.fromkeys(NAMES, case) for case in pair))
    part = text.split("## Not decided")[1].split("\n## ")[0]
    assert "neither that the claims hold nor that they fail" in part
    # Of the seeds that are all there, the interval.
    assert bool(NUMBER.findall(visible(part))) == ("wide" in pair)
    assert all(LACKING[case] in part for case in pair)
    assert all(f"[{name}]" in part for name in NAMES)
    assert "No claim is decided on any track." in text
    assert "As advice" not in text


def test_every_claim_is_in_one_of_the_two_lists(tmp_path: Path) -> None:
    cases = dict(zip(NAMES, itertools.cycle(ALL), strict=False))
    text = page(tmp_path, cases)
    decided = {name.lower() for name, case in cases.items() if case in SHOWN}
    assert set(blocks(text)) == decided
    part = text.split("## Not decided")[1].split("\n## ")[0]
    assert {name.lower() for name in re.findall(r"\[(C\w+)\]", part)} == (
        {name.lower() for name in NAMES} - decided
    )
    counts = [verdict(METRICS[name]["rule"], case) for name, case in cases.items()]
    said = ", ".join(
        f"{counts.count(word)} {word}"
        for word in ("supported", "refuted", "mixed", "undetermined")
        if word in counts
    )
    assert f": {said}.\n" in text
    assert "backbones of at most 4,321 parameters, at most 8,765 images seen" in text


@pytest.mark.parametrize("case", ALL)
def test_the_article_is_wrong_only_where_a_source_or_a_track_refutes_it(
    tmp_path: Path, case: str
) -> None:
    text = page(tmp_path, dict.fromkeys(NAMES, case))
    part = text.partition("## Where the article is wrong")[2]
    by_sources, _, by_records = part.partition("As advice")
    for claim in PUBLISHED["claims"]:
        described = (claim["description"] or {}).get("verdict")
        assert (claim["sentence"].rstrip(".") in by_sources) == (described in ("refuted", "mixed"))
        own = verdict(claim["advice"]["rule"], case)
        assert (f"[{claim['id']}]" in by_records) == (own in ("refuted", "mixed"))


def lines(text: str) -> int:
    """The lines of a page in a window of 120 characters, without blank ones and targets of links."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).splitlines()
    return sum(len(textwrap.wrap(line, 120)) for line in shown)


@pytest.mark.parametrize(
    "pair", [("above", "below"), ("above", "above"), ("equivalent", "missing")]
)
def test_the_page_is_one_screen(tmp_path: Path, pair: tuple[str, str]) -> None:
    found = [
        document(track, dict.fromkeys(NAMES, case))
        for track, case in zip(("mini", "cifar10"), pair, strict=True)
    ]
    # Everything that can be stated: no rate is tuned in the other experiments, and no image is known.
    for claim in (claim for own in found for claim in own["claims"]):
        own = claim["advice"]
        if own["experiment"] not in ("learning-rate", "leakage"):
            own["sensitivity"] = {"steps": [{"estimate": 0.0, "verdict": own["verdict"]}] * 4}
            own["other_images"] = {"se": 0.001, "verdict": own["verdict"]}
        claim["literature"] = {"one": "agrees", "two": "disagrees", "three": "undecided"}
    stand(tmp_path, *found)
    text = across.contents(tmp_path)[tmp_path / "results/what-to-believe.md"]
    assert "rate steps change it, " in text
    assert "published: 1 confirmed, 1 contradicted, 1 left open" in text
    assert lines(text) <= 66


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("C1:", "C12:", "believe.yaml has no sentences for claim C1"),
        ("advice: Put BN there.", "advice: Gain 2 points.", "'Gain 2 points.', expected no number"),
        ("advice: Put BN there.", "advice: Gain {margin}.", "'Gain {margin}.', expected no brace"),
        (", within {margin}", "", "C1.equivalent.shown is"),
        ("advice: Put BN there.", "advise: Put BN there.", "unknown key 'C2.above.advise'"),
    ],
)  # fmt: skip
def test_sentences_with_numbers_of_their_own_are_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    stand(tmp_path, document("mini", {}))
    file = tmp_path / "believe.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        across.write(tmp_path)
    assert said in str(refused.value)


def test_the_readme_links_the_page_near_its_top() -> None:
    top = (PROJECT / "README.md").read_text(encoding="utf-8").split("## The leaderboard")[0]
    assert "(results/what-to-believe.md)" in top
