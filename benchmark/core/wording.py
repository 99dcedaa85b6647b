"""How messages and pages put counts into words."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """E.g. `1 cell`, `2 cells`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
