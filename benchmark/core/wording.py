"""Counts in words and numbers of users, for messages and pages."""

from __future__ import annotations

DIGITS = 9
"""Most digits of a number on the command line; Python refuses to read thousands of them."""


def natural(text: str) -> int | None:
    """The number that a text of at most `DIGITS` digits stands for; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else None


def clipped(text: str) -> str:
    """A value of a user's as a message quotes it, cut off where it is too long for a line."""
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def counted(count: int, noun: str) -> str:
    """E.g. `1 cell`, `2 cells`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
