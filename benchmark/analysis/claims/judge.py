"""Every claim with its verdict and what that rests on, from the records of one track."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.analysis import power
from benchmark.analysis.claims import rules
from benchmark.analysis.claims.arms import Bar, bar
from benchmark.analysis.claims.diagnostics import Halfway, Leak, halfway, leak
from benchmark.analysis.claims.differences import Difference, difference, missing
from benchmark.analysis.claims.images import OtherImages, other_images
from benchmark.analysis.claims.schema import (
    STABLE_RATE,
    Advice,
    Beside,
    Claim,
    Claims,
    Pair,
    Verdict,
)
from benchmark.analysis.claims.sensitivity import Sensitivity, sensitivity
from benchmark.planning import plan
from benchmark.results.rows import RecordIndex


@dataclass(frozen=True)
class Planned:
    """How many paired seeds a verdict needs, by the spread of a pilot, and how many there are."""

    seeds: int
    """Those that the experiment asks for."""
    for_equivalence: int | None
    """To show equivalence four times in five if there is no difference; null beyond `power.MOST`."""
    for_difference: int | None
    """To find a difference as large as the margin four times in five; null beyond `power.MOST`."""
    reachable: bool
    """Whether the experiment has the seeds that equivalence needs."""


@dataclass(frozen=True)
class Further:
    """A difference that is shown beside the one that decides."""

    entry: Beside
    experiment: str
    difference: Difference | None
    """Null where the track lacks it."""


@dataclass(frozen=True)
class Judged:
    """A claim and what became of it."""

    name: str
    claim: Claim
    verdict: Verdict | None
    """On its advice; null where it gives none."""
    reasons: tuple[str, ...]
    """Why, in words."""
    margin: float | None = None
    """What counts as equivalent, in the metric's unit; null without an advice."""
    difference: Difference | None = None
    """The one that decides; null where the track does not ask for it."""
    bar: Bar | None = None
    """What its arms must reach to have learnt."""
    plain: Difference | None = None
    """The same with the running statistics of the training, which decides nothing."""
    confirmation: Difference | None = None
    """The one that must have the same sign; null where none must, or the track lacks it."""
    beside: tuple[Further, ...] = ()
    leaks: tuple[Leak, ...] = ()
    """What the diagnostics say of the arms, where their networks have BN groups."""
    sensitivity: Sensitivity | None = None
    """What one step of the learning rate would change; null where no rate was tuned for the metric."""
    images: OtherImages | None = None
    """What other test images would change; null where the metric is not known image by image."""
    planned: Planned | None = None
    """How many seeds the verdict needs by the pilot; null where the track does not ask for it."""
    tuned: bool = False
    """Whether every row of its experiment has a learning rate of its own."""
    halfway: Halfway | None = None
    """How soon schemes came half way, where the claim is about learning rates."""

    @property
    def at_least(self) -> bool:
        """Whether the estimate is only a lower bound of the difference's size."""
        advice, found = self.claim.advice, self.difference
        rates = advice is not None and advice.metric == STABLE_RATE
        return rates and found is not None and found.higher is not None and found.higher.at_edge


def judge(claims: Claims, index: RecordIndex) -> tuple[Judged, ...]:
    """Every claim, judged."""
    return tuple(_judged(name, claim, claims, index) for name, claim in claims.claims.items())


def _judged(name: str, claim: Claim, claims: Claims, index: RecordIndex) -> Judged:
    advice = claim.advice
    if advice is None:
        return Judged(name, claim, None, ())
    margin = claims.margins.get(advice.metric)
    if absent := _absent(index, advice, advice):
        return Judged(name, claim, "undetermined", (absent,), margin)
    found = difference(index, claims, advice, advice, claims.comparisons)
    confirmation = plain = None
    if advice.confirmed_by and not _absent(index, advice, advice.confirmed_by):
        confirmation = difference(index, claims, advice, advice.confirmed_by)
    if advice.metric == "knn_reestimated":
        running = advice.model_copy(update={"metric": "knn"})
        plain = difference(index, claims, running, advice)
    least = bar(index, claims, advice.experiment, found.plus.rows[0].row.backbone)
    beside = []
    for entry in claim.beside:
        asked = advice.beside(entry)
        there = not _absent(index, asked, entry)
        other = difference(index, claims, asked, entry) if there else None
        beside.append(Further(entry, asked.experiment, other))
    verdict, reasons = rules.verdict(advice, found, least, confirmation)
    leaks: tuple[Leak, ...] = ()
    if advice.metric != STABLE_RATE and not any(missing(own) for own in found.arms):
        named = {own.name: leak(own.rows[0]) for own in found.arms}
        leaks = tuple(own for own in named.values() if own.excess is not None)
    tuned = index.params.experiments[advice.experiment].learning_rates == "tuned"
    rates = sensitivity(claims, advice, found, least, confirmation, tuned=tuned)
    speeds = None
    if advice.metric == STABLE_RATE and least.untrained is not None:
        schemes = [own.name for own in found.arms]
        schemes += [arm for b in beside if b.difference for arm in (b.entry.plus, b.entry.minus)]
        speeds = halfway(index, advice, least.untrained, list(dict.fromkeys(schemes)))
    return Judged(
        name,
        claim,
        verdict,
        reasons,
        margin,
        found,
        least,
        plain,
        confirmation,
        tuple(beside),
        leaks,
        rates,
        other_images(claims, advice, found, least, confirmation),
        _planned(claims, advice, found),
        tuned,
        speeds,
    )


def _planned(claims: Claims, advice: Advice, found: Difference) -> Planned:
    margin, sd = claims.margins[advice.metric], advice.pilot.sd
    level, seeds = claims.level / claims.comparisons, len(found.seeds)
    needed = power.seeds_for_equivalence(margin, sd, level)
    reachable = needed is not None and needed <= seeds
    return Planned(seeds, needed, power.seeds_for_difference(margin, sd, level), reachable)


def _absent(index: RecordIndex, advice: Advice, pair: Pair) -> str | None:
    """What a track does not ask for, of all that a pair needs; None where it has everything."""
    if advice.experiment not in index.params.experiments:
        return f"this track has no experiment {advice.experiment}"
    rows = {str(row) for row in plan.rows(index.params, advice.experiment)}
    for arm in (pair.plus, pair.minus):
        if lost := [row for row in advice.rows(arm) if row not in rows]:
            return f"this track's experiment {advice.experiment} has no row {', '.join(lost)}"
    return None
