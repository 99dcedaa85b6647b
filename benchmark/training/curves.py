"""What the curves of a training are called, and where they have their points."""

from __future__ import annotations

POINTS = 50
"""Equal stretches of a training: a recorded curve has a point for each."""

UPDATE = "relative_update."
"""What the names of the curves of relative updates begin with; the section follows."""


def stretches(steps: int) -> list[int]:
    """The steps, counted from 1, that end each of at most POINTS equal stretches of a training."""
    return sorted({round((k + 1) * steps / POINTS) for k in range(POINTS)} - {0})
