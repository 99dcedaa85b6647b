"""Files written from the templates in `templates/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The text of a file. Raises `jinja2.UndefinedError` for a name that `values` lacks."""
    environment = Environment(
        loader=PackageLoader("benchmark.scaffold"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"quoted": quoted, "flow": flow}
    return environment.get_template(template).render(**values)


def quoted(value: str | int) -> str:
    """A value of YAML, whatever is in it: a JSON string is a YAML string too."""
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


def flow(values: Mapping[str, Any]) -> str:
    """A mapping on one line of YAML. Its keys are words, its values numbers or lists of numbers."""
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "}"
