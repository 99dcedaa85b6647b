"""What one step of the learning rate either way would make of a verdict. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from benchmark.analysis import contrasts
from benchmark.analysis.claims import rules
from benchmark.analysis.claims.arms import Arm, Bar
from benchmark.analysis.claims.differences import Difference
from benchmark.analysis.claims.schema import ACCURACIES, Advice, Claims, Verdict
from benchmark.analysis.statistics import Measured

Side = Literal["plus", "minus"]
SIDES: tuple[Side, Side] = ("plus", "minus")


@dataclass(frozen=True)
class Shifted:
    """A verdict if one arm had been trained at the rate one step of the sweep away from its own."""

    side: Side
    arm: str
    direction: str
    """`lower` or `higher`."""
    rate: Annotated[float | None, Field(serialization_alias="learning_rate")]
    """That learning rate; null where the table of rates does not say."""
    change: Measured | None = None
    """Of the arm's accuracy on the validation split, as the sweep's fit expects it; null where the rate
    was not tried, or a training failed there."""
    estimate: Measured | None = None
    """Of the difference, then; null where the change is."""
    verdict: Verdict | None = None
    """By the same rule with the same standard error; null where the change is."""


@dataclass(frozen=True)
class Sensitivity:
    """All four: either arm, a step either way."""

    summary: str
    """What they make of the verdict, in one line."""
    steps: tuple[Shifted, ...]


def sensitivity(
    claims: Claims,
    advice: Advice,
    found: Difference,
    bar: Bar,
    confirmation: Difference | None,
    *,
    tuned: bool,
) -> Sensitivity | None:
    """The verdicts of an advice if either arm's learning rate were one step lower or higher.

    A step is the sweep's factor. The estimate is shifted by what the fit of the sweep expects of the
    validation accuracy there. None where nothing is estimated, and where no rate was tuned by the metric
    that decides.
    """
    if found.finding is None or not tuned or advice.metric not in ACCURACIES or advice.minus_metric:
        return None
    steps = []
    for side, own in zip(SIDES, found.arms, strict=True):
        for direction in ("lower", "higher"):
            step = own.rows[0].steps.get(direction)
            if step is None or step.change is None:
                steps.append(Shifted(side, own.name, direction, step.rate if step else None))
                continue
            moved = contrasts.moved(
                found.finding,
                step.change if side == "plus" else -step.change,
                comparisons=claims.comparisons,
                margin=claims.margins.get(advice.metric),
            )
            arms = {side: _shifted(own, step.change, bar)}
            shifted = replace(
                found,
                finding=moved,
                plus=arms.get("plus", found.plus),
                minus=arms.get("minus", found.minus),
            )
            ruled, _ = rules.verdict(advice, shifted, bar, confirmation)
            steps.append(
                Shifted(side, own.name, direction, step.rate, step.change, moved.estimate, ruled)
            )
    reached, _ = rules.verdict(advice, found, bar, confirmation)
    return Sensitivity(_summary(reached, steps), tuple(steps))


def _summary(reached: Verdict, steps: Sequence[Shifted]) -> str:
    other = [step for step in steps if step.verdict and step.verdict != reached]
    lost = [step for step in steps if step.verdict is None]
    parts = []
    if not lost and not other:
        return "the verdict is the same for one step of the rate either way of either arm"
    if len(lost) < len(steps) and not other:
        parts.append("the verdict is the same for every step of the rate that was tried")
    parts += [f"{_with(step)} it would be {step.verdict}" for step in other]
    if lost:
        one = "that rate was" if len(lost) == 1 else "those rates were"
        names = ", ".join(map(_with, lost))
        parts.append(f"not known {names}: {one} not tried, or a training failed there")
    return "; ".join(parts)


def _shifted(own: Arm, change: float, bar: Bar) -> Arm:
    """The arm with another accuracy, which may no longer reach the bar."""
    if own.accuracy is None or bar.least is None:
        return own
    accuracy = own.accuracy + change
    return replace(own, accuracy=accuracy, learnt=accuracy >= bar.least)


def _with(step: Shifted) -> str:
    return f"with {step.arm} one step {step.direction}"
