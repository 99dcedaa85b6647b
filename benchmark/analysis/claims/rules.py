"""The rules of a verdict: what is said of a difference, and what it may not rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.analysis.claims.arms import Arm, Bar
from benchmark.analysis.claims.differences import Difference
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Rule, Verdict
from benchmark.analysis.contrasts import Finding


@dataclass(frozen=True)
class Outcomes:
    """A rule: the verdict for whatever is shown of a difference."""

    above: Verdict
    """Significantly above zero."""
    below: Verdict
    equivalent: Verdict
    """Within the margin, and not significant."""
    above_equivalent: Verdict
    """Significantly above zero, and yet within the margin."""
    below_equivalent: Verdict


TABLE: dict[Rule, Outcomes] = {
    "better": Outcomes("supported", "refuted", "refuted", "mixed", "refuted"),
    "no-worse": Outcomes("supported", "refuted", "supported", "supported", "mixed"),
    "differs": Outcomes("supported", "supported", "refuted", "mixed", "mixed"),
}

Ruling = tuple[Verdict, tuple[str, ...]]
"""A verdict and why, in words."""


def verdict(advice: Advice, found: Difference, bar: Bar, confirmation: Difference | None) -> Ruling:
    """The verdict by the first rule that applies, see docs/claims.md.

    `confirmation` is the difference that must have the same sign, null where the track lacks it.
    """
    finding = found.finding
    if finding is None:
        return "undetermined", found.lacking
    if not found.plus.learnt and not found.minus.learnt:
        return "undetermined", (_not_learnt(found.arms, bar),)
    edge = [own for own in found.arms if own.at_edge]
    if losing := [own for own in edge if own is not found.higher]:
        return "undetermined", tuple(_edge(advice, own, "decides nothing") for own in losing)
    # What is at an edge could be better still, so it cannot be shown to be no better.
    ruled, why = ruling(advice.rule, finding, equivalent=bool(finding.equivalent) and not edge)
    notes = [why]
    if finding.equivalent and edge:
        notes += [_edge(advice, own, "shows no equivalence") for own in edge]
    notes += dict.fromkeys(
        f"{own.name} has learnt nothing: that is the effect" for own in found.arms if not own.learnt
    )
    if advice.confirmed_by and ruled != "undetermined":
        if objection := _objection(advice, found, confirmation):
            return "undetermined", (objection, f"otherwise {ruled}: {why}")
        notes.append(f"{_name(advice)} has the same sign")
    return ruled, tuple(notes)


def ruling(rule: Rule, finding: Finding, *, equivalent: bool) -> tuple[Verdict, str]:
    """The verdict of a rule on a finding, and why."""
    of = TABLE[rule]
    above = finding.significant and finding.estimate > 0
    below = finding.significant and finding.estimate < 0
    within = "within the margin of what counts as equivalent"
    if above and equivalent:
        return of.above_equivalent, f"significantly above zero, and yet {within}"
    if below and equivalent:
        return of.below_equivalent, f"significantly below zero, and yet {within}"
    if above:
        return of.above, "significantly above zero"
    if below:
        return of.below, "significantly below zero"
    if equivalent:
        return of.equivalent, f"equivalent: {within}"
    return "undetermined", "neither a difference nor equivalence is shown"


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


def _name(advice: Advice) -> str:
    pair = advice.confirmed_by
    return f"{pair.plus} minus {pair.minus}" if pair else ""


def _objection(advice: Advice, found: Difference, confirmation: Difference | None) -> str | None:
    """Why the confirming difference does not confirm, or None."""
    if confirmation is None:
        return f"not confirmed: this track has no {_name(advice)}"
    if confirmation.finding is None:
        return f"not confirmed: {'; '.join(confirmation.lacking)}"
    primary = found.finding.estimate if found.finding else 0.0
    if confirmation.finding.estimate * primary <= 0:
        return f"not confirmed: {_name(advice)} does not have the same sign"
    return None
