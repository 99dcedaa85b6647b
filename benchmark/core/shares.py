"""Shares as people write them."""

from __future__ import annotations

from fractions import Fraction


def exact(share: float) -> Fraction:
    """A share by its decimal digits: .1 is a tenth, not the nearest binary number."""
    return Fraction(str(share))
