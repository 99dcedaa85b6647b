"""The verdicts on one claim on several tracks: what each shows, and whether they agree."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.analysis import contrasts, statistics
from benchmark.analysis.claims.rules import Shown
from benchmark.analysis.claims.schema import STABLE_RATE, Verdict
from benchmark.analysis.claims.tracks import Advice, Claim, TrackVerdicts
from benchmark.analysis.contrasts import Finding
from benchmark.analysis.statistics import Measured

WIDE = "the seeds show neither a difference nor equivalence"
EDGE = "equivalence is not shown while a learning rate is at the edge of those tried"

Agreement = Literal["agree", "agree in part", "differ", "one track", "undecided"]

If = Shown | Literal["undetermined", "unknown"]
"""What would be shown under another condition."""


@dataclass(frozen=True)
class Told:
    """What one track states about the advice of a claim."""

    track: str
    verdict: Verdict
    shown: Shown | None
    """What the verdict rests on; null if undetermined."""
    why: str | None
    """Why it is undetermined, in words; null if it is not."""
    finding: Finding | None
    """Null unless the claim is decided, or undecided for no other reason than its spread."""
    at_least: bool
    """Whether the estimate is only a lower bound of the size of the difference."""
    unlearnt: tuple[str, ...]
    """Arms that have learnt nothing, of a decided claim: that is the effect."""
    steps: Mapping[If, int] | None
    """How many of the neighbouring learning rates would show what; null if undecided or not tuned."""
    images: If | None
    """What would be shown with the variance over test images; null if undecided or not known."""
    published: Mapping[str, int]
    """How many published results have each word of `literature`."""


@dataclass(frozen=True)
class Gap:
    """The estimate on one track minus that on another, as of independent samples."""

    tracks: tuple[str, str]
    mean: Measured
    low: Measured
    """Lower end of the interval at the level of one claim; `high` likewise."""
    high: Measured
    significant: bool
    """Whether zero is outside of it. If not, the tracks are not thereby shown to be equal."""


@dataclass(frozen=True)
class Across:
    """A claim that gives an advice, on every track."""

    claim: Claim
    """As the first track's document states it."""
    advice: Advice
    views: tuple[Told, ...]
    agreement: Agreement
    gaps: tuple[Gap, ...]

    @property
    def decided(self) -> tuple[Told, ...]:
        """The tracks that decide it."""
        return tuple(view for view in self.views if view.shown)


def compare(documents: Sequence[TrackVerdicts]) -> tuple[Across, ...]:
    """Every claim with an advice, on the tracks of these documents, which judge the same claims."""
    first = documents[0]
    found = []
    for place, claim in enumerate(first.claims):
        if claim.advice is None:
            continue
        views = tuple(
            told(document, document.claims[place], advice)
            for document in documents
            if (advice := document.claims[place].advice)
        )
        between = tuple(gaps(views, first.level / first.comparisons))
        found.append(Across(claim, claim.advice, views, agreement(views, between), between))
    return tuple(found)


def told(document: TrackVerdicts, claim: Claim, advice: Advice) -> Told:
    """What a track's document states about a claim."""
    why = _why(advice) if advice.verdict == "undetermined" else None
    finding = advice.estimate if why in (None, WIDE) else None
    shown = advice.shown if why is None else None
    arms = (advice.arms.plus, advice.arms.minus) if advice.arms and shown else ()
    return Told(
        track=document.track,
        verdict=advice.verdict,
        shown=shown,
        why=why,
        finding=finding,
        at_least=advice.at_least,
        unlearnt=tuple(dict.fromkeys(arm.name for arm in arms if not arm.learnt)),
        steps=_steps(document, advice) if shown else None,
        images=_images(document, advice) if shown else None,
        published=Counter(claim.literature.values()),
    )


def agreement(views: Sequence[Told], between: Sequence[Gap]) -> Agreement:
    """Whether the tracks that decide a claim agree.

    They differ if they show significant differences of opposite signs, and if one supports it, another
    refutes it and estimates differ between tracks. They agree in part with other verdicts that are not
    all the same: a difference and equivalence may well be of one size.
    """
    decided = [view for view in views if view.shown]
    if len(decided) < 2:
        return "one track" if decided else "undecided"
    verdicts = {view.verdict for view in decided}
    signs = {str(view.shown).removesuffix("_equivalent") for view in decided}
    apart = any(gap.significant for gap in between)
    if signs >= {"above", "below"} or (verdicts >= {"supported", "refuted"} and apart):
        return "differ"
    return "agree" if len(verdicts) == 1 else "agree in part"


def gaps(views: Sequence[Told], level: float) -> Iterator[Gap]:
    """The difference of each two tracks' estimates, with an interval of coverage 1 − level.

    The standard errors add as squares, and the degrees of freedom are those of Welch (1947). A bound of
    an estimate, or one without a spread, is not compared.
    """
    known = [view for view in views if view.finding and view.finding.se and not view.at_least]
    for one, two in itertools.combinations(known, 2):
        a, b = one.finding, two.finding
        if a is None or b is None or a.se is None or b.se is None:  # for the type checker
            continue
        squares = a.se**2, b.se**2
        df = sum(squares) ** 2 / (squares[0] ** 2 / a.df + squares[1] ** 2 / b.df)
        half = statistics.quantile(df, level) * math.sqrt(sum(squares))
        mean = a.estimate - b.estimate
        yield Gap((one.track, two.track), mean, mean - half, mean + half, abs(mean) > half)


def _why(advice: Advice) -> str:
    """Why a claim is undetermined, in the order of docs/claims.md and without seeds and numbers."""
    arms = advice.arms
    if advice.planned is None or arms is None:
        return "the track does not have this comparison"
    if advice.estimate is None:
        if not advice.cells or any(cell.sha256 is None for cell in advice.cells):
            return "training runs are missing"
        allowed = {"done", "diverged"} if advice.metric == STABLE_RATE else {"done"}
        if any(cell.status not in allowed for cell in advice.cells):
            return "a training run failed"
        return "a value, a control or a tuned learning rate is missing"
    if not arms.plus.learnt and not arms.minus.learnt:
        return "neither arm has learnt"
    mean = advice.estimate.estimate
    losing = [arm for arm, sign in ((arms.plus, 1), (arms.minus, -1)) if sign * mean <= 0]
    if any(arm.at_edge for arm in losing):
        return "the losing arm's learning rate is at the edge of those tried"
    if advice.shown is None:
        return EDGE if advice.estimate.equivalent else WIDE
    return "another comparison does not confirm it"


def _steps(document: TrackVerdicts, advice: Advice) -> Mapping[If, int] | None:
    if advice.sensitivity is None or advice.estimate is None:
        return None
    found: Counter[If] = Counter()
    for step in advice.sensitivity.steps:
        if step.verdict is None or step.estimate is None:
            found["unknown"] += 1
        else:
            by = step.estimate - advice.estimate.estimate
            found[_if(document, advice, step.verdict, by=by)] += 1
    return found


def _images(document: TrackVerdicts, advice: Advice) -> If | None:
    other = advice.other_images
    if other is None:
        return None
    return _if(document, advice, other.verdict, variance=other.se**2)


def _if(
    document: TrackVerdicts,
    advice: Advice,
    verdict: Verdict,
    *,
    by: float = 0.0,
    variance: float = 0.0,
) -> If:
    """What the estimate would show under another condition, whose verdict is known."""
    if verdict == "undetermined" or advice.estimate is None or advice.arms is None:
        return "undetermined"
    moved = contrasts.changed(
        advice.estimate, by=by, variance=variance, comparisons=document.comparisons,
        margin=advice.margin,
    )  # fmt: skip
    return advice.model_copy(update={"estimate": moved}).shown or "undetermined"
