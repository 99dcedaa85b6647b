"""The verdicts on all claims, from the records of one track."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.analysis import power
from benchmark.analysis.claims import rules
from benchmark.analysis.claims.arms import ACCURACY, Bar, bar
from benchmark.analysis.claims.diagnostics import Halfway, Leak, halfway, leak
from benchmark.analysis.claims.differences import Difference, difference
from benchmark.analysis.claims.images import OtherImages, other_images
from benchmark.analysis.claims.matched import absent
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
from benchmark.results.rows import RecordIndex


@dataclass(frozen=True)
class Planned:
    """The number of paired seeds that a verdict needs by the spread of a pilot, and that there are."""

    seeds: int
    """The number that the experiment asks for."""
    for_equivalence: int | None
    """To show equivalence four times in five if there is no difference; null beyond `power.MOST`."""
    for_difference: int | None
    """To find a difference as large as the margin four times in five; null beyond `power.MOST`."""
    reachable: bool
    """Whether the experiment has the seeds that equivalence needs."""


@dataclass(frozen=True)
class Secondary:
    """A difference that is shown with the one that decides."""

    entry: Beside
    experiment: str
    difference: Difference | None
    """Null if the track lacks it."""


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict and what that rests on."""

    name: str
    claim: Claim
    verdict: Verdict | None
    """On its advice; null if it gives none."""
    reasons: tuple[str, ...]
    """Why, in words."""
    margin: float | None = None
    """What counts as equivalent, in the metric's unit; null without an advice."""
    difference: Difference | None = None
    """The primary one, which decides; null if the track does not ask for it."""
    bar: Bar | None = None
    """What its arms must reach to have learnt."""
    plain: Difference | None = None
    """The same with the running statistics of the training, which decides nothing."""
    confirmation: Difference | None = None
    """The one that must have the same sign; null if there is none, or the track lacks it."""
    secondary: tuple[Secondary, ...] = ()
    leaks: tuple[Leak, ...] = ()
    """Diagnostics of the arms, if their networks have BN groups and the difference is estimated."""
    sensitivity: Sensitivity | None = None
    """What one step of the learning rate would change; null if no rate was tuned for the metric."""
    images: OtherImages | None = None
    """What other test images would change; null if the metric is not known for each image."""
    planned: Planned | None = None
    """How many seeds the verdict needs by the pilot; null if the track does not ask for it."""
    tuned: bool = False
    """Whether every row of its experiment has a learning rate of its own."""
    halfway: Halfway | None = None
    """How soon schemes reached half way, if the claim is about learning rates."""

    @property
    def at_least(self) -> bool:
        """Whether the estimate is only a lower bound of the difference's size."""
        higher = self.difference and self.difference.higher
        return bool(higher and higher.metric == STABLE_RATE and higher.at_edge)


def judge(claims: Claims, index: RecordIndex) -> tuple[Judged, ...]:
    """Every claim with its verdict."""
    return tuple(_judged(name, claim, claims, index) for name, claim in claims.claims.items())


def _judged(name: str, claim: Claim, claims: Claims, index: RecordIndex) -> Judged:
    advice = claim.advice
    if advice is None:
        return Judged(name, claim, None, ())
    margin = claims.margins[advice.metric]
    if lost := absent(index.params, advice, advice):
        return Judged(name, claim, "undetermined", (lost,), margin)

    def other(asked: Advice, pair: Pair) -> Difference | None:
        return None if absent(index.params, asked, pair) else difference(index, claims, asked, pair)

    primary = difference(index, claims, advice, advice, claims.comparisons)
    confirmation = other(advice, advice.confirmed_by) if advice.confirmed_by else None
    running = advice.model_copy(update={"metric": "knn"})
    least = bar(index, claims, advice.experiment, primary.plus.rows[0].row.backbone)
    verdict, reasons = rules.verdict(advice, primary, least, confirmation)
    tuned = index.params.experiments[advice.experiment].learning_rates == "tuned"
    asked = [(entry, advice.of(entry)) for entry in claim.beside]
    secondary = tuple(Secondary(entry, of.experiment, other(of, entry)) for entry, of in asked)
    leaks: dict[str, Leak] = {}
    # The means of a part of the seeds would show what is not estimated.
    if advice.metric != STABLE_RATE and primary.finding:
        leaks = {own.name: leak(own.rows[0]) for own in primary.arms}
    speeds = None
    if advice.metric == STABLE_RATE and least.untrained is not None:
        pairs = [advice, *(shown.entry for shown in secondary if shown.difference)]
        schemes = dict.fromkeys(arm for pair in pairs for arm in (pair.plus, pair.minus))
        speeds = halfway(index, advice, least.untrained, list(schemes))
    return Judged(
        name=name,
        claim=claim,
        verdict=verdict,
        reasons=reasons,
        margin=margin,
        difference=primary,
        bar=least,
        plain=other(running, advice) if advice.metric == ACCURACY else None,
        confirmation=confirmation,
        secondary=secondary,
        leaks=tuple(own for own in leaks.values() if own.excess is not None),
        sensitivity=sensitivity(claims, advice, primary, least, confirmation, tuned=tuned),
        images=other_images(claims, advice, primary, least, confirmation),
        planned=_planned(claims, advice, len(primary.seeds)),
        tuned=tuned,
        halfway=speeds,
    )


def _planned(claims: Claims, advice: Advice, seeds: int) -> Planned:
    margin, sd = claims.margins[advice.metric], advice.pilot.sd
    level = claims.level / claims.comparisons
    needed = power.seeds_for_equivalence(margin, sd, level)
    reachable = needed is not None and needed <= seeds
    return Planned(seeds, needed, power.seeds_for_difference(margin, sd, level), reachable)
