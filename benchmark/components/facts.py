"""What components state about themselves, and the check of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from benchmark.components.options import check, check_options
from benchmark.core.errors import UserError, unknown

PIXELS = "pixels"
"""The backbone, and its component, of what has no network."""


SECTIONS = ("backbone", "projector", "predictor", "decoder")


REQUIRED: dict[str, dict[str, str]] = {
    "norm": {"batch_dependent": "bool"},
    "method": {"title": "str", "views": "int >= 0", "sections": "sections", "teacher": "bool"},
    "source": {},
    "backbone": {"normalized": "bool"},
    "optimizer": {},
}
"""The facts that each kind of component states, beside `COMMON`."""


COMMON = {"name": "name", "version": "int >= 1", "options": "options"}


OPTIONAL: dict[str, dict[str, Any]] = {
    "norm": {"activates": "bool", "branch": ["skipinit"]},
    "method": {"view_batching": ["separate", "joint"], "largest_share": "shares"},
    "source": {"unrecorded": "list of str"},
    "backbone": {"initialized": "bool"},
    "optimizer": {},
}
"""Facts that a component may leave out, beside `kind` (a plug-in's own must say it), `example` and
`defaults` (of options, which then need not be given)."""


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names become parts of file names."""


def check_facts(where: str, kind: str, facts: Mapping[str, Any]) -> None:
    """Raises UserError if a component's facts are not those of its kind."""
    if kind not in list(REQUIRED):
        raise unknown(f"kind of {where}", kind, REQUIRED)
    required = COMMON | REQUIRED[kind]
    described = (
        required
        | OPTIONAL[kind]
        | {
            "kind": list(REQUIRED),
            "defaults": "defaults",
            "example": "example",
        }
    )
    for key in facts:
        if key not in described:
            raise unknown(f"fact of {where}", key, described)
    if missing := [repr(key) for key in required if key not in facts]:
        raise UserError(f"{where}: COMPONENT lacks {', '.join(missing)}, which a {kind} must state")
    # In this order, since an example is held to the options and their defaults.
    for key in described:
        if key in facts:
            _check_fact(f"{where}: {key}", facts[key], described[key], facts)


def _check_fact(where: str, value: Any, description: Any, facts: Mapping[str, Any]) -> None:
    if description == "name":
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise UserError(
                f"{where} is {value!r}, expected letters, digits and - _ . between them"
            )
    elif description == "sections":
        if not isinstance(value, list) or not all(item in SECTIONS for item in value):
            raise UserError(f"{where} is {value!r}, expected some of {', '.join(SECTIONS)}")
        if "backbone" not in value and (value or facts["views"]):
            raise UserError(f"{where} is {value!r}: what is trained has a backbone")
    elif description in ("example", "defaults", "shares"):
        if not isinstance(value, dict):
            raise UserError(f"{where} is {value!r}, expected a value of each option by its name")
        options = facts["options"]
        if description == "example":
            check_options(where, value, options, facts.get("defaults"))
            return
        for option in value:
            if option not in options:
                raise unknown(f"option of {where}", option, options)
        share = "0 < float <= 1"
        described = {key: share if description == "shares" else options[key] for key in value}
        check_options(where, value, described)
    elif description == "options":
        if not isinstance(value, dict):
            raise UserError(f"{where} is {value!r}, expected a description of each by its name")
        for option, text in value.items():
            if not isinstance(option, str) or option in ("name", "norm", "model"):
                raise UserError(
                    f"{where}: {option!r} cannot be an option: params name components so"
                )
            _check_description(f"{where}: {option}", text)
    else:
        check(where, value, description)


def _check_description(where: str, description: Any) -> None:
    inner = description
    for prefix in ("list of ", "range of "):
        inner = inner.removeprefix(prefix) if isinstance(inner, str) else inner
    try:
        # Nothing is described as None: whatever can be read refuses it.
        check(where, None, inner)
    except (ValueError, AttributeError):
        raise UserError(
            f"{where} is described as {description!r}, expected e.g. 'int >= 1' or a list of values"
        ) from None
    except UserError:
        return
