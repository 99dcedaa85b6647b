"""Checks option values against the short descriptions that components declare.

A description is `int >= 1`, `float > 0`, `0 <= float <= 1`, `bool`, `str`, `mapping`, a list of allowed
values, one of these after `list of `, or a number's after `range of ` (two values, the lowest first). It
is in a component's literal facts, so options are checked without importing the component.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Mapping
from typing import Any

from benchmark.core.errors import UserError, check_known

_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_RANGE = re.compile(
    r"(?:(?P<low>-?\d+(?:\.\d+)?) (?P<below><=?) )?(?P<type>int|float)"
    r"(?: (?P<op>[<>]=?) (?P<bound>-?\d+(?:\.\d+)?))?"
)


def check_options(
    where: str,
    given: Mapping[str, Any],
    described: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`given`, with the `defaults` of missing options, in the order described.

    Raises UserError for an unknown option, for a missing option without a default, and for a value that
    is not allowed.
    """
    given = {**(defaults or {}), **given}
    check_known(f"option of {where}", given, described)
    for key in described:
        if key not in given:
            raise UserError(f"{where}: option {key!r} is missing (expected {described[key]})")
    return {key: check(f"{where}: {key}", given[key], described[key]) for key in described}


def essential(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not at their defaults.

    A cell's configuration holds only these. So a new option whose default is the earlier behaviour
    changes no fingerprint.
    """
    return {
        key: value
        for key, value in options.items()
        if key not in defaults or value != defaults[key]
    }


def check(where: str, value: Any, description: str | list[Any]) -> Any:
    """`value` if the description allows it; an int becomes a float if a float is described."""
    if isinstance(description, list):
        # True and 1.0 equal 1, but are not allowed in its place.
        if not any(type(value) is type(item) and value == item for item in description):
            allowed_values = ", ".join(map(str, description))
            raise UserError(f"{where} is {value!r}, expected one of {allowed_values}")
        return value
    if description.startswith("range of "):
        inner = description.removeprefix("range of ")
        if not isinstance(value, list) or len(value) != 2:
            raise UserError(f"{where} is {value!r}, expected two numbers, lowest first")
        low, high = (check(where, item, inner) for item in value)
        if low > high:
            raise UserError(f"{where} is {value!r}, expected two numbers, lowest first")
        return [low, high]
    if description.startswith("list of "):
        if not isinstance(value, list) or not value:
            raise UserError(f"{where} is {value!r}, expected a {description}")
        return [check(where, item, description.removeprefix("list of ")) for item in value]
    if description == "mapping":
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{where} is {value!r}, expected a mapping of names to values")
        return value
    if description in ("bool", "str"):
        if type(value).__name__ != description:
            raise UserError(f"{where} is {value!r}, expected {description}")
        return value
    match = _RANGE.fullmatch(description)
    if match is None:
        raise ValueError(f"{where}: cannot read the description {description!r}")
    integer = isinstance(value, int) and not isinstance(value, bool)
    allowed = integer or (match["type"] == "float" and isinstance(value, float))
    if allowed:
        # An int of hundreds of digits cannot become a float.
        allowed = abs(value) <= sys.float_info.max
        if match["low"]:
            allowed &= _COMPARE[match["below"]](float(match["low"]), value)
        if match["bound"]:
            allowed &= _COMPARE[match["op"]](value, float(match["bound"]))
    if not allowed:
        raise UserError(f"{where} is {value!r}, expected {description}")
    return float(value) if match["type"] == "float" else value
