"""The rules that turn a difference into a verdict, or leave it undetermined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.analysis.claims.arms import Arm, Bar
from benchmark.analysis.claims.differences import Difference
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Rule, Verdict
from benchmark.analysis.contrasts import Finding

Shown = Literal["above", "below", "equivalent", "above_equivalent", "below_equivalent"]
"""What can be shown of a difference, see `Outcomes`."""


@dataclass(frozen=True)
class Outcomes:
    """A rule: the verdict for everything that can be shown of a difference."""

    above: Verdict
    """Significantly above zero."""
    below: Verdict
    equivalent: Verdict
    """Within the margin, and not significant."""
    above_equivalent: Verdict
    """Significantly above zero, and yet within the margin."""
    below_equivalent: Verdict

    def of(self, found: Shown) -> Verdict:
        """The verdict for what was shown."""
        verdict: Verdict = getattr(self, found)
        return verdict


TABLE: dict[Rule, Outcomes] = {
    "better": Outcomes("supported", "refuted", "refuted", "mixed", "refuted"),
    "no-worse": Outcomes("supported", "refuted", "supported", "supported", "mixed"),
    "differs": Outcomes("supported", "supported", "refuted", "mixed", "mixed"),
}

_WITHIN = "within the margin of what counts as equivalent"

WORDS: dict[Shown, str] = {
    "above": "significantly above zero",
    "below": "significantly below zero",
    "equivalent": f"equivalent: {_WITHIN}",
    "above_equivalent": f"significantly above zero, and yet {_WITHIN}",
    "below_equivalent": f"significantly below zero, and yet {_WITHIN}",
}

Ruling = tuple[Verdict, tuple[str, ...]]
"""A verdict and why, in words."""


def verdict(
    advice: Advice, primary: Difference, bar: Bar, confirmation: Difference | None
) -> Ruling:
    """The verdict by the first rule that applies, see docs/claims.md.

    `confirmation` is the difference that must have the same sign, None if the track lacks it.
    """
    finding = primary.finding
    if finding is None:
        return "undetermined", primary.lacking
    if not primary.plus.learnt and not primary.minus.learnt:
        return "undetermined", (_not_learnt(primary.arms, bar),)
    edge = [own for own in primary.arms if own.at_edge]
    if losing := [own for own in edge if own is not primary.higher]:
        return "undetermined", tuple(_edge(advice, own, "decides nothing") for own in losing)
    # An arm at an edge could be better still, so it cannot be shown to be no better.
    ruled, why = ruling(advice.rule, finding, equivalent=bool(finding.equivalent) and not edge)
    notes = [why]
    if finding.equivalent:
        notes += [_edge(advice, own, "shows no equivalence") for own in edge]
    notes += dict.fromkeys(
        f"{own.name} has learnt nothing: that is the effect"
        for own in primary.arms
        if not own.learnt
    )
    if advice.confirmed_by and ruled != "undetermined":
        name = f"{advice.confirmed_by.plus} minus {advice.confirmed_by.minus}"
        if objection := _objection(name, finding.estimate, confirmation):
            return "undetermined", (f"not confirmed: {objection}", f"otherwise {ruled}: {why}")
        notes.append(f"{name} has the same sign")
    return ruled, tuple(notes)


def shown(finding: Finding, *, equivalent: bool) -> Shown | None:
    """What a finding shows, None if neither a difference nor equivalence."""
    if finding.significant and finding.estimate != 0:
        if finding.estimate > 0:
            return "above_equivalent" if equivalent else "above"
        return "below_equivalent" if equivalent else "below"
    return "equivalent" if equivalent else None


def ruling(rule: Rule, finding: Finding, *, equivalent: bool) -> tuple[Verdict, str]:
    """The verdict of a rule on a finding, and why."""
    found = shown(finding, equivalent=equivalent)
    if found is None:
        return "undetermined", "neither a difference nor equivalence is shown"
    return TABLE[rule].of(found), WORDS[found]


def _not_learnt(arms: Sequence[Arm], bar: Bar) -> str:
    reached = ", ".join(
        dict.fromkeys(
            f"{own.name} {100 * own.accuracy:.1f} %" for own in arms if own.accuracy is not None
        )
    )
    return (
        f"neither arm has learnt: {reached}; from {100 * (bar.least or 0):.1f} % on a row has "
        f"({bar.row} has {100 * (bar.better or 0):.1f} %)"
    )


def _edge(advice: Advice, own: Arm, consequence: str) -> str:
    if advice.metric == STABLE_RATE:
        return (
            f"the highest rate tried was still stable under {own.name}, which may take higher ones: "
            f"this {consequence}"
        )
    return (
        f"the best rate tried of {own.name} was the lowest or the highest, so a better one may lie "
        f"beyond: this {consequence}"
    )


def _objection(name: str, estimate: float, confirmation: Difference | None) -> str | None:
    """Why the confirming difference does not have the sign of the estimate, or None."""
    if confirmation is None:
        return f"this track has no {name}"
    if confirmation.finding is None:
        return "; ".join(confirmation.lacking)
    if confirmation.finding.estimate * estimate <= 0:
        return f"{name} does not have the same sign"
    return None
