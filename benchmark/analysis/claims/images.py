"""The verdict on other test images. It decides nothing.

The interval of a claim is over seeds, on fixed test images: more seeds do not show what a difference
would be on other images of the same kind. Records hold which images each network classifies correctly,
so that both can be treated as random draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmark.analysis import contrasts
from benchmark.analysis.balance import correct_images
from benchmark.analysis.claims import rules
from benchmark.analysis.claims.arms import ACCURACY, Arm, Bar
from benchmark.analysis.claims.differences import Difference
from benchmark.analysis.claims.schema import Advice, Claims, Verdict
from benchmark.analysis.contrasts import Finding


@dataclass(frozen=True)
class OtherImages:
    """A difference with the variance over images added to that over seeds."""

    se: float
    """Standard error from the images alone, in 0..1."""
    finding: Finding
    """The difference with both."""
    verdict: Verdict
    """By the same rule."""


def other_images(
    claims: Claims, advice: Advice, primary: Difference, bar: Bar, confirmation: Difference | None
) -> OtherImages | None:
    """The verdict if new images were drawn, too.

    None if nothing is estimated, if the metric is not the accuracy that records hold for each image,
    and if a record lacks it.
    """
    finding = primary.finding
    if finding is None or finding.se is None or advice.metric != ACCURACY or advice.minus_metric:
        return None
    right = [[_right(own, seed) for seed in primary.seeds] for own in primary.arms]
    known = [bits for arm in right for bits in arm if bits is not None]
    if len(known) < 2 * len(primary.seeds) or len({len(bits) for bits in known}) > 1:
        return None
    plus, minus = (np.stack(known[: len(primary.seeds)]), np.stack(known[len(primary.seeds) :]))
    variance = variance_over_images(plus - minus)
    wider = contrasts.changed(
        finding,
        variance=variance,
        comparisons=claims.comparisons,
        margin=claims.margins.get(advice.metric),
    )
    verdict, _ = rules.verdict(advice, replace(primary, finding=wider), bar, confirmation)
    return OtherImages(math.sqrt(variance), wider, verdict)


def variance_over_images(differences: NDArray[np.float64] | Sequence[Sequence[float]]) -> float:
    """What the images add to the variance of a mean over seeds and images (S, I).

    Seeds and images are crossed random effects: the mean has variance σ²ₛ/S + σ²ᵢ/I + σ²/(S·I). The
    seeds' means show the first and the last term. The other is (MSᵢ − MS) / (S·I) with the mean
    squares of images and of residuals, at least zero (Searle, Casella & McCulloch, Variance Components,
    1992, §4.3). With one seed there are no residuals to subtract.
    """
    table = np.asarray(differences, dtype=np.float64)
    seeds, images = table.shape
    if images < 2:
        raise ValueError("the variance over images needs two")
    by_image = table.mean(0)
    squares = seeds * float(by_image.var(ddof=1))
    rest = 0.0
    if seeds > 1:
        residuals = table - by_image - table.mean(1, keepdims=True) + table.mean()
        rest = float((residuals**2).sum()) / ((seeds - 1) * (images - 1))
    return max(squares - rest, 0.0) / (seeds * images)


def _right(own: Arm, seed: int) -> NDArray[np.float64] | None:
    """See `correct_images`. The padding is images that no network gets right: no difference changes."""
    digits = own.rows[0].records[seed].record.result.correct
    return None if digits is None else correct_images(digits)
