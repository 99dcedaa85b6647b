"""Brute force by samples: a few by default, all of them under the marker `slow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pytest

T = TypeVar("T", bound=Sequence[Any])


def counts(few: Any, many: Any) -> list[Any]:
    """Two parameters of a test: what or how many it tries by default, and what if it may be slow."""
    return [few, pytest.param(many, marks=pytest.mark.slow)]


def rest_slow(cases: Iterable[T], default: Callable[[T], bool]) -> list[Any]:
    """The cases, of which those that are not of the `default` are slow."""
    return [pytest.param(*case, marks=() if default(case) else pytest.mark.slow) for case in cases]
