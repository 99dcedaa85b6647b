"""What a representation must reach to have learnt: more than its input and its initial network give."""

from __future__ import annotations

from collections.abc import Sequence

LEARNT = 0.02
"""How far above the better of both, in accuracy: the least difference that is not called equivalent."""


def least(untrained: Sequence[float], pixels: float | None, margin: float = LEARNT) -> float | None:
    """The accuracy from which on a row has learnt, None where either control is not known.

    `untrained` are mean accuracies of untrained backbones of the same kind, the best of which counts;
    `pixels` is that of raw pixels: a network worse than its input has learnt nothing of use.
    """
    if not untrained or pixels is None:
        return None
    return max(*untrained, pixels) + margin
