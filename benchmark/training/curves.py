"""Names and points of a training run's curves."""

from __future__ import annotations

POINTS = 50
"""Equal stretches of a training run: a recorded curve has a point for each."""

UPDATE = "relative_update."
"""Prefix of the curves of relative updates; the section follows."""


def stretches(steps: int) -> list[int]:
    """The last steps, counted from 1, of at most POINTS equal stretches of a training run."""
    return sorted({round((k + 1) * steps / POINTS) for k in range(POINTS)} - {0})
