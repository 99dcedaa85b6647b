"""The verdict at learning rates one step lower or higher. It decides nothing."""

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
    """The verdict if one arm had been trained at the rate one step of the sweep away from its own."""

    side: Side
    arm: str
    direction: str
    """`lower` or `higher`."""
    rate: Annotated[float | None, Field(serialization_alias="learning_rate")]
    """That learning rate; null if the table of rates does not have it."""
    change: Measured | None = None
    """Of the arm's accuracy on the validation split, as the sweep's fit expects it; null if the rate
    was not tried, or a training failed there."""
    estimate: Measured | None = None
    """The resulting estimate of the difference; null if the change is."""
    verdict: Verdict | None = None
    """By the same rule with the same standard error; null if the change is."""


@dataclass(frozen=True)
class Sensitivity:
    """The verdicts for all four steps: lower and higher for each arm."""

    summary: str
    """How they differ from the verdict, in one line."""
    steps: tuple[Shifted, ...]


def sensitivity(
    claims: Claims,
    advice: Advice,
    primary: Difference,
    bar: Bar,
    confirmation: Difference | None,
    *,
    tuned: bool,
) -> Sensitivity | None:
    """The verdicts of an advice if the learning rate of one arm were one step lower or higher.

    A step is the sweep's factor. The estimate is shifted by the change of validation accuracy that the
    sweep's fit expects there. None if nothing is estimated, and if no rate was tuned by the metric that
    decides.
    """
    finding = primary.finding
    if finding is None or not tuned or advice.metric not in ACCURACIES or advice.minus_metric:
        return None
    steps: list[Shifted] = []
    for side, own in zip(SIDES, primary.arms, strict=True):
        for direction in ("lower", "higher"):
            step = own.rows[0].steps.get(direction)
            if step is None or step.change is None:
                steps.append(Shifted(side, own.name, direction, step.rate if step else None))
                continue
            moved = contrasts.changed(
                finding,
                by=step.change if side == "plus" else -step.change,
                comparisons=claims.comparisons,
                margin=claims.margins.get(advice.metric),
            )
            plus, minus = (
                _shifted(arm, step.change, bar) if arm is own else arm for arm in primary.arms
            )
            shifted = replace(primary, finding=moved, plus=plus, minus=minus)
            verdict, _ = rules.verdict(advice, shifted, bar, confirmation)
            steps.append(
                Shifted(side, own.name, direction, step.rate, step.change, moved.estimate, verdict)
            )
    verdict, _ = rules.verdict(advice, primary, bar, confirmation)
    return Sensitivity(_summary(verdict, steps), tuple(steps))


def _shifted(own: Arm, change: float, bar: Bar) -> Arm:
    """The arm with another accuracy, which may no longer reach the bar."""
    if own.accuracy is None or bar.least is None:
        return own
    accuracy = own.accuracy + change
    return replace(own, accuracy=accuracy, learnt=accuracy >= bar.least)


def _summary(verdict: Verdict, steps: Sequence[Shifted]) -> str:
    names = {step: f"with {step.arm} one step {step.direction}" for step in steps}
    lost = [names[step] for step in steps if step.verdict is None]
    parts = [
        f"{names[step]} it would be {step.verdict}"
        for step in steps
        if step.verdict not in (None, verdict)
    ]
    if not lost and not parts:
        return "the verdict is the same for one step of the rate either way of either arm"
    if len(lost) < len(steps) and not parts:
        parts.append("the verdict is the same for every step of the rate that was tried")
    if lost:
        rates = "that rate was" if len(lost) == 1 else "those rates were"
        parts.append(f"not known {', '.join(lost)}: {rates} not tried, or a training failed there")
    return "; ".join(parts)
