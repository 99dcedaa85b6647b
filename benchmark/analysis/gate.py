"""The accuracy that a representation must reach to have learnt."""

from __future__ import annotations

from collections.abc import Sequence

STARTS = ("untrained", "pretrained")
"""The methods that evaluate a backbone as its training starts: drawn, or with the weights of a file."""

LEARNT = 0.02
"""The least distance above the better control, in accuracy: the margin of equivalence."""


def least(untrained: Sequence[float], pixels: float | None, margin: float = LEARNT) -> float | None:
    """The least accuracy of a row that has learnt; None if either control is unknown.

    `untrained` are the mean accuracies of `STARTS` with the same kind of backbone, of which the best
    counts. `pixels` is that of raw pixels: a network worse than its input has learnt nothing of use.
    """
    if not untrained or pixels is None:
        return None
    return max(*untrained, pixels) + margin
