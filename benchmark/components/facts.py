"""The facts that components state about themselves, and their checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from benchmark.components.options import check, check_options
from benchmark.core.errors import UserError, unknown

PIXELS = "pixels"
"""The backbone of controls without a network, and its component."""

SECTIONS = ("backbone", "projector", "predictor", "decoder")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names become parts of file names."""


def _name(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise UserError(f"{where} is {value!r}, expected letters, digits and - _ . between them")


def _sections(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    if not isinstance(value, list) or not all(item in SECTIONS for item in value):
        raise UserError(f"{where} is {value!r}, expected some of {', '.join(SECTIONS)}")
    if "backbone" not in value and (value or facts["views"]):
        raise UserError(f"{where} is {value!r}: what is trained has a backbone")


def _options(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}, expected a description of each option by its name")
    for option, description in value.items():
        if not isinstance(option, str) or option in ("name", "norm", "model"):
            raise UserError(f"{where}: {option!r} cannot be an option: it is a key of params.yaml")
        inner = description
        for prefix in ("list of ", "range of "):
            inner = inner.removeprefix(prefix) if isinstance(inner, str) else inner
        try:
            # No description allows None, so a readable one raises UserError.
            check(where, None, inner)
        except (ValueError, AttributeError):
            raise UserError(
                f"{where}: {option} is described as {description!r}, expected e.g. 'int >= 1' or a "
                "list of values"
            ) from None
        except UserError:
            continue


def _example(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    _mapping(where, value)
    check_options(where, value, facts["options"], facts.get("defaults"))


def _defaults(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    _known(where, _mapping(where, value), facts)
    check_options(where, value, {option: facts["options"][option] for option in value})


def _shares(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    _known(where, _mapping(where, value), facts)
    check_options(where, value, dict.fromkeys(value, "0 < float <= 1"))


def _doubled(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    _known(where, _mapping(where, value), facts)
    for option, doubling in value.items():
        _names(f"{where}: {option}", doubling, facts)


def _names(where: str, value: Any, facts: Mapping[str, Any]) -> None:
    if not isinstance(value, list):
        raise UserError(f"{where} is {value!r}, expected a list of options")
    _known(where, value, facts)


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}, expected a value of each option by its name")
    return value


def _known(where: str, options: Any, facts: Mapping[str, Any]) -> None:
    for option in options:
        if option not in facts["options"]:
            raise unknown(f"option of {where}", option, facts["options"])


Check = str | list[str] | Callable[[str, Any, Mapping[str, Any]], None]
"""The description of a fact as of an option, or a function that raises UserError for a wrong value."""

COMMON: dict[str, Check] = {"name": _name, "version": "int >= 1", "options": _options}
"""The facts that every component states."""

REQUIRED: dict[str, dict[str, Check]] = {
    "norm": {"batch_dependent": "bool"},
    "method": {"title": "str", "views": "int >= 0", "sections": _sections, "teacher": "bool"},
    "source": {},
    "backbone": {"normalized": "bool"},
    "optimizer": {},
}
"""The further facts that components of a kind state."""

OPTIONAL: dict[str, dict[str, Check]] = {
    "norm": {"activates": "bool", "branch": ["skipinit"], "divides_batch": _names},
    "method": {
        "view_batching": ["separate", "joint"],
        "largest_share": _shares,
        "multiple_of_batch": _doubled,
    },
    "source": {"unrecorded": _names},
    "backbone": {"initialized": "bool"},
    "optimizer": {},
}
"""The facts that components of a kind may leave out, besides `kind`, `defaults` and `example`."""


def check_facts(where: str, kind: str, facts: Mapping[str, Any]) -> None:
    """Raises UserError if a component's facts are not those of its kind."""
    if kind not in list(REQUIRED):
        raise unknown(f"kind of {where}", kind, REQUIRED)
    required = COMMON | REQUIRED[kind]
    common: dict[str, Check] = {"kind": list(REQUIRED), "defaults": _defaults, "example": _example}
    described = required | OPTIONAL[kind] | common
    for key in facts:
        if key not in described:
            raise unknown(f"fact of {where}", key, described)
    if missing := [repr(key) for key in required if key not in facts]:
        raise UserError(f"{where}: COMPONENT lacks {', '.join(missing)}, which a {kind} must state")
    # In this order: the others are compared with the options, the example with the defaults too.
    for key, description in described.items():
        if key not in facts:
            continue
        if callable(description):
            description(f"{where}: {key}", facts[key], facts)
        else:
            check(f"{where}: {key}", facts[key], description)
