"""Option values are what their short descriptions say, or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.components import registry
from benchmark.components.options import check, check_options
from benchmark.config.validate import view_options
from benchmark.core.errors import UserError


@pytest.mark.parametrize(
    ("value", "description", "result"),
    [
        (3, "int >= 1", 3),
        (2, "float > 0", 2.0),
        (0.0, "0 <= float <= 1", 0.0),
        (1, "0 <= float <= 1", 1.0),
        (False, "bool", False),
        ("", "str", ""),
        (4, [1, 4], 4),
        ([1, 2], "list of int >= 1", [1, 2]),
        ([1, 2.5], "list of float > 0", [1.0, 2.5]),
    ],
)
def test_allowed_value_is_returned(value: Any, description: Any, result: Any) -> None:
    found = check("here", value, description)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize(
    ("value", "description"),
    [
        (0, "int >= 1"),
        (1.0, "int >= 1"),
        (True, "int >= 1"),
        ("1", "int >= 1"),
        (None, "int >= 1"),
        (0, "float > 0"),
        (True, "float > 0"),
        (float("nan"), "float > 0"),
        (float("inf"), "float > 0"),
        (1, "0 <= float < 1"),
        (0.0, "0 < float < 1"),
        (-0.1, "0 <= float <= 1"),
        (1.1, "0 <= float <= 1"),
        (1, "bool"),
        (1, "str"),
        (2, [1, 4]),
        (True, [1, 4]),
        ([], "list of int >= 1"),
        ([1, 0], "list of int >= 1"),
        (1, "list of int >= 1"),
        ([[1]], "list of int >= 1"),
    ],
)
def test_value_not_allowed_is_refused_with_place_and_value(value: Any, description: Any) -> None:
    with pytest.raises(UserError, match=r"^[^\n]*here[^\n]*$") as refused:
        check("here", value, description)
    assert str(value[-1] if isinstance(value, list) and value else value) in str(refused.value)


def test_missing_and_unknown_options_are_named() -> None:
    described = {"temperature": "float > 0", "hidden": "int >= 1"}
    with pytest.raises(UserError, match="'hidden' is missing"):
        check_options("method m", {"temperature": 1}, described)
    with pytest.raises(UserError, match=r"'temprature'.*did you mean 'temperature'"):
        check_options("method m", {"temprature": 1, "hidden": 2}, described)


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_every_component_describes_its_options_readably(kind: str) -> None:
    for facts in registry.catalogue(kind).values():
        for key, description in facts["options"].items():
            with pytest.raises(UserError, match=key):
                check(key, None, description)


def test_the_fields_of_a_view_are_described_readably() -> None:
    for key, description in view_options().items():
        with pytest.raises(UserError, match=key):
            check(key, None, description)


def test_a_description_that_cannot_be_read_is_not_blamed_on_the_user() -> None:
    with pytest.raises(ValueError, match="cannot read"):
        check("here", 1, "whole number")
