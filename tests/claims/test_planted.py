"""The whole procedure, from records to verdicts, on planted effects with the spreads of the pilots.

`tests/analysis/test_calibration.py` simulates the statistics alone. Here `judge` gets made-up records
of the project's own claims, experiments and seeds (`tests/helpers/effects.py`). Effects are in margins:
½, 1 and 2 are 1, 2 and 4 points, and for C1 .125, .25 and .5 decades.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from benchmark.analysis import power
from benchmark.analysis.claims import literature
from benchmark.analysis.claims.judge import Judged, judge
from benchmark.analysis.claims.schema import STABLE_RATE, Rule, Verdict
from benchmark.analysis.contrasts import COMPARISONS, LEVEL, Finding
from benchmark.analysis.power import POWER
from benchmark.report.claims import document, page
from tests.helpers import effects, tiny
from tests.helpers.effects import ADVICE, CLAIMS, MARGIN, Key, Values
from tests.helpers.slow import counts

FEW = 100
TABLES = counts(FEW, 400)

EITHER: tuple[Verdict, ...] = ("supported", "mixed", "refuted")
TRUE: dict[Rule, dict[float, tuple[Verdict, ...]]] = {
    "better": {-1: ("refuted",), 0: ("refuted",), 0.5: EITHER, 1: ("supported",)},
    "no-worse": {-1: ("refuted",), 0: ("supported",), 0.5: ("supported",), 1: ("supported",)},
    "differs": {-1: ("supported",), 0: ("refuted",), 0.5: EITHER, 1: ("supported",)},
}
"""By rule and effect in margins, at most ±1, the verdicts that are true by claims.yaml.

Inside the margin both the sign and the equivalence are true, and either may be the one that is shown.
"""

POOLED = ("C5", "C9")
"""The claims with a third arm in their pool: the larger of two spreads costs a little power."""

SHORT = {"C1": (0.193, 0.824)}
"""The claims with fewer seeds than the calculation asks for: how often it finds 1 and 2 margins.

C1 has 8 seeds. It takes 20 to find one margin, 21 to show equivalence.
"""


def error(share: float, tables: int, errors: int = 3) -> float:
    """So many standard errors of a share."""
    return errors * math.sqrt(share * (1 - share) / tables)


def is_close(name: str, share: float, expected: float, tables: int) -> bool:
    """Whether a share is the calculated one. Some forty are compared, so four standard errors."""
    slack = error(expected, tables, 4)
    return expected - slack - 0.05 * (name in POOLED) <= share <= expected + slack


@dataclass(frozen=True)
class Told:
    """What a table says of a claim."""

    verdict: str | None
    finding: Finding

    def is_false(self, name: str, effect: float) -> bool:
        """Whether the verdict, or the sign or the equivalence that it is based on, is not true."""
        if self.verdict == "undetermined":
            return False
        found = self.finding
        true = TRUE[ADVICE[name].rule][max(-1, min(1, effect))]
        wrong_sign = found.significant and np.sign(found.estimate) != np.sign(effect)
        return self.verdict not in true or wrong_sign or bool(found.equivalent and abs(effect) >= 1)

    def finds(self, name: str, effect: float) -> bool:
        """Whether the table states the true sign, and the verdict that it implies."""
        found = self.finding
        return bool(
            found.significant
            and found.estimate * effect > 0
            and self.verdict in TRUE[ADVICE[name].rule][math.copysign(1, effect)]
        )


@cache
def empty() -> effects.Held:
    return effects.blank()


@cache
def told(effect: float, tables: int) -> list[dict[str, Told]]:
    """What tables say if every claim has the same effect, in margins."""
    random = np.random.default_rng([19, round(100 * effect) % 1000])
    size = {name: effect * margin for name, margin in MARGIN.items()}
    found = []
    for _ in range(tables):
        index = effects.filled(empty(), effects.draw(empty(), size, random))
        table = {}
        for entry in judge(effects.only(), index):
            assert entry.difference
            assert entry.difference.finding, entry.reasons
            table[entry.name] = Told(entry.verdict, entry.difference.finding)
        found.append(table)
    return found


def seeds(name: str) -> int:
    """The paired seeds of a claim."""
    return len(effects.PARAMS.experiments[ADVICE[name].experiment].seeds)


def chance(name: str, effect: float) -> float:
    """How often the calculation before the runs finds an effect."""
    size, level = effect * MARGIN[name], LEVEL / COMPARISONS
    return power.of_difference(size, ADVICE[name].pilot.sd, seeds(name), level)


def test_the_planted_values_have_the_effect_and_the_pilots_spread() -> None:
    for name, advice in ADVICE.items():
        for effect in (0, 0.5, 1, -1):
            findings = [table[name].finding for table in told(effect, FEW)]
            mean = np.mean([found.estimate for found in findings])
            sd = math.sqrt(np.mean([(found.own_sd or 0) ** 2 for found in findings]))
            se = advice.pilot.sd / math.sqrt(seeds(name) * FEW)
            assert mean == pytest.approx(effect * MARGIN[name], abs=4 * se), name
            assert sd == pytest.approx(advice.pilot.sd, rel=0.1), name


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("effect", [0, 0.5, 1, -1, 2])
def test_at_most_one_table_in_twenty_holds_a_false_verdict(effect: float, tables: int) -> None:
    found = told(effect, tables)
    wrong = [[name for name, one in table.items() if one.is_false(name, effect)] for table in found]
    assert np.mean([bool(names) for names in wrong]) <= LEVEL + error(LEVEL, tables), wrong


@pytest.mark.parametrize("tables", TABLES)
def test_no_effect_is_called_equivalent_as_often_as_the_calculation_says(tables: int) -> None:
    for name, advice in ADVICE.items():
        if name in SHORT:
            continue
        expected = power.of_equivalence(
            MARGIN[name], advice.pilot.sd, seeds(name), LEVEL / COMPARISONS
        )
        assert expected >= POWER
        verdict = "supported" if advice.rule == "no-worse" else "refuted"
        share = float(np.mean([table[name].verdict == verdict for table in told(0, tables)]))
        assert is_close(name, share, expected, tables), (name, share, expected)


@pytest.mark.parametrize("tables", TABLES)
@pytest.mark.parametrize("effect", [1, -1, 2])
def test_effects_are_found_with_their_sign(effect: float, tables: int) -> None:
    """One margin in 80 % of tables, two in 99 %, and as often as the calculation says."""
    least = POWER if abs(effect) == 1 else 0.99
    found = told(effect, tables)
    for name in ADVICE:
        expected = chance(name, effect)
        share = float(np.mean([table[name].finds(name, effect) for table in found]))
        if name in SHORT:
            assert expected == pytest.approx(SHORT[name][abs(effect) == 2], abs=1e-3)
            assert expected < least
            # On a grid of half decades, the differences are far from normal.
            assert share == pytest.approx(expected, abs=0.12)
            continue
        assert expected >= least
        assert share >= least - error(least, tables), name
        assert is_close(name, share, expected, tables), (name, share, expected)


LARGE = 3.0
"""An effect in margins that no number may give away."""

HARMS: list[dict[str, Any] | None] = [
    None,
    {"status": "diverged"},
    {"status": "out-of-memory"},
    {"status": "crashed"},
]
"""What can become of a record: it is missing, or its run failed."""


@cache
def whole() -> Values:
    """A table of large effects with all of its records."""
    size = {name: LARGE * MARGIN[name] for name in ADVICE}
    # The rates tried do not allow for more of C1.
    size["C1"] = 2 * MARGIN["C1"]
    return effects.draw(empty(), size, np.random.default_rng(20))


def harmed(key: Key, harm: dict[str, Any] | None) -> Values:
    """The table with one record harmed. A failed run has measured nothing."""
    rest = {other: said for other, said in whole().items() if other != key}
    return rest if harm is None else rest | {key: harm}


@cache
def published() -> literature.Library:
    return literature.read(tiny.PROJECT)


def report(name: str, values: Values) -> tuple[Judged, dict[str, Any], str]:
    """A claim as judged, its advice in claims.json, and its part of the page."""
    claims = effects.only(name)
    verdicts = judge(claims, effects.filled(empty(), values))
    library = published()
    compared = {name: dict.fromkeys(library.entries, "not yet run")}
    written = json.loads(document.json(claims, effects.PARAMS, verdicts, compared))
    text = page.markdown(claims, effects.PARAMS, verdicts, library, compared)
    (line,) = (line for line in text.splitlines() if line.startswith(f"| [{name}]"))
    section = text.split(f"## {name}: ", 1)[1].split("**What would change it.**", 1)[0]
    return verdicts[0], written["claims"][0]["advice"], f"{line}\n{section}"


def numbers(value: Any, but: tuple[str, ...]) -> Iterator[float]:
    """Every number that is not below one of these keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from () if key in but else numbers(inner, but)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, but)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def measured(entry: dict[str, Any]) -> list[float]:
    """The measured numbers of a claim apart from its controls and the accuracy of each arm."""
    fixed = ("pilot", "planned", "margin", "bar", "arms", "halfway", "seed", "n")
    return list(numbers(entry, fixed))


def records(name: str) -> list[Key]:
    """Every record that a claim's estimate is made of."""
    advice = ADVICE[name]
    rows = dict.fromkeys([*advice.rows(advice.plus), *advice.rows(advice.minus)])
    own = effects.PARAMS.experiments[advice.experiment].seeds
    return [(advice.experiment, row, seed) for row, seed in product(rows, own)]


@pytest.mark.parametrize("name", ADVICE)
def test_with_all_records_the_effect_is_told(name: str) -> None:
    """So that the tests below can fail."""
    judged, entry, text = report(name, whole())
    assert judged.verdict == "supported"
    assert entry["estimate"]["n"] == seeds(name)
    assert len(measured(entry)) > 3 * seeds(name)
    assert re.search(r"\*\*[+-]\d+\.\d+ \(", text)


@pytest.mark.parametrize("name", ADVICE)
def test_without_any_one_record_there_is_no_estimate(name: str) -> None:
    """Whichever seed or arm it is, and whatever became of it; a rate that diverges is a result of C1."""
    claims = effects.only(name)
    for number, key in enumerate(records(name)):
        harm = HARMS[number % len(HARMS)]
        if ADVICE[name].metric == STABLE_RATE and harm == {"status": "diverged"}:
            harm = None
        (judged,) = judge(claims, effects.filled(empty(), harmed(key, harm)))
        assert (judged.verdict, judged.at_least) == ("undetermined", False)
        assert judged.difference
        assert judged.difference.finding is None, (key, harm)
        assert judged.images is judged.sensitivity is None
        (reason,) = judged.reasons
        assert key[1] in reason
        assert str(key[2]) in reason


@pytest.mark.parametrize("harm", HARMS, ids=str)
@pytest.mark.parametrize("name", ADVICE)
def test_no_other_place_gives_the_effect_away(name: str, harm: dict[str, Any] | None) -> None:
    if ADVICE[name].metric == STABLE_RATE and harm == {"status": "diverged"}:
        pytest.skip("a rate that diverges is a result")
    key = records(name)[-1]
    judged, entry, text = report(name, harmed(key, harm))
    assert (judged.verdict, entry["estimate"]) == ("undetermined", None)
    assert measured(entry) == []
    arms = [entry["arms"][side]["accuracy"] for side in ("plus", "minus")]
    assert None in arms or ADVICE[name].metric == STABLE_RATE
    assert "**undetermined** | — | — | — |" in text
    # No signed number, and no table of values, of leakage or of other rates.
    assert not re.search(r"(?<!\w)[+-]\d", text.replace(ADVICE[name].pilot.source, ""))
    for told_with_it in ("| seed |", "swap excess, points", "one step |", "smallest effect that"):
        assert told_with_it not in text


@pytest.mark.parametrize("control", ["untrained", "raw-pixels"])
@pytest.mark.parametrize("harm", HARMS[:2], ids=str)
def test_without_a_control_no_claim_is_estimated(control: str, harm: dict[str, Any] | None) -> None:
    """A single seed of a single control is enough."""
    for name, advice in ADVICE.items():
        keys = [key for key in whole() if key[0] == advice.experiment and control in key[1]]
        rest = {key: said for key, said in whole().items() if key != keys[-1]}
        values = rest if harm is None else {**rest, keys[-1]: harm}
        judged, entry, text = report(name, values)
        assert (judged.verdict, entry["estimate"]) == ("undetermined", None)
        assert entry["reasons"][0].startswith("no bar from which on a row has learnt"), name
        assert measured(entry) == [], name
        assert "**undetermined** | — | — | — |" in text
        assert "| seed |" not in text
        assert "swap excess, points" not in text


def test_a_difference_beside_another_claim_is_not_estimated_either() -> None:
    """C9 shows C5's difference beside its own."""
    primary = ADVICE["C5"]
    for key in records("C5")[::13]:
        verdicts = judge(CLAIMS, effects.filled(empty(), harmed(key, None)))
        same = [
            secondary.difference
            for judged in verdicts
            for secondary in judged.secondary
            if (secondary.entry.plus, secondary.entry.minus) == (primary.plus, primary.minus)
        ]
        assert len(same) == 1
        assert same[0]
        assert same[0].finding is None
