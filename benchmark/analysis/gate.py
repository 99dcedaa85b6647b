"""The accuracy that a representation must reach to have learnt."""

from __future__ import annotations

from collections.abc import Sequence

LEARNT = 0.02
"""The least distance above the better control, in accuracy: the margin of equivalence."""


def least(untrained: Sequence[float], pixels: float | None, margin: float = LEARNT) -> float | None:
    """The least accuracy of a row that has learnt; None if either control is unknown.

    `untrained` are the mean accuracies of untrained backbones of the same kind, of which the best
    counts. `pixels` is that of raw pixels: a network worse than its input has learnt nothing of use.
    """
    if not untrained or pixels is None:
        return None
    return max(*untrained, pixels) + margin
