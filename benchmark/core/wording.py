"""Counts in words, for messages and pages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """E.g. `1 cell`, `2 cells`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
