"""Text of numbers, units and tracks, for the page and the figures."""

from __future__ import annotations

from benchmark.analysis.claims.schema import STABLE_RATE, Advice
from benchmark.analysis.contrasts import Finding
from benchmark.report.markdown import NONE

METRICS = {
    "knn_reestimated": "kNN accuracy, statistics re-estimated",
    "knn": "kNN accuracy, running statistics",
    "pretext_same_group": "accuracy at the pretext task, held-out images, both views in one BN group",
    "pretext_regrouped": "accuracy at the pretext task, held-out images, BN groups redrawn",
    "swap_gap": "swap gap",
    STABLE_RATE: "highest stable learning rate, log₁₀",
}

SMALL = ("mini", "fashion-mnist", "cifar10")
"""Tracks whose verdicts do not extend to long training runs of large networks."""


def scale(track: str) -> str | None:
    """The limits of a track's verdicts; null if the track is of a published size."""
    return "short trainings of small networks" if track in SMALL else None


def on_track(track: str) -> str:
    """The track on which a verdict holds, in Markdown."""
    limited = scale(track)
    return f"on the track `{track}`" + (f" ({limited})" if limited else "")


def unit(advice: Advice) -> str:
    """The unit of a difference as `amount` writes it."""
    return advice.unit or "points"


def amount(value: float, metric: str, *, signed: bool = True, digits: int = 2) -> str:
    """A value or difference of a metric: accuracies in %, the highest stable rate in decades."""
    shown = f"{value if metric == STABLE_RATE else 100 * value:{'+' if signed else ''}.{digits}f}"
    # Zero has no sign.
    return shown if float(shown) else shown.lstrip("+-")


def size(value: float | None, metric: str) -> str:
    """An amount without a sign."""
    return NONE if value is None else amount(value, metric, signed=False)


def whole(value: float, metric: str) -> str:
    """An amount without trailing zeros, e.g. `2` for .02."""
    return f"{value if metric == STABLE_RATE else 100 * value:.3g}"


def interval(finding: Finding, metric: str) -> str:
    """An estimate with its interval, e.g. `+1.20 (-0.40 to +2.80)`."""
    shown = amount(finding.estimate, metric)
    if finding.low is None or finding.high is None:
        return shown
    return f"{shown} ({amount(finding.low, metric)} to {amount(finding.high, metric)})"


def chance(p: float) -> str:
    """A p-value with its relation, e.g. `= .0120` or `< .0001`."""
    if p < 1e-4:
        return "< .0001"
    return f"= {f'{p:.4f}'.lstrip('0')}" if p < 0.99995 else "= 1"
