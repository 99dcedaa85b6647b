"""Pages from the templates in `templates/`, and the text of their cells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

NONE = "—"


def escape(text: object) -> str:
    """Text that Markdown shows literally, in a table too: no markup, no HTML, one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|`*_~\[\]$#])", r"\\\1", line)


def code(text: str) -> str:
    """Text that can be put between backticks."""
    return " ".join(text.replace("`", "'").split())


def heading(text: str) -> str:
    """The escaped text with a capital at its beginning."""
    shown = escape(text)
    return shown[:1].upper() + shown[1:]


def cells(row: Iterable[str]) -> str:
    """A line of a table; its cells are Markdown already."""
    return f"| {' | '.join(row)} |"


def bullets(lines: Iterable[str]) -> str:
    """A bulleted list of Markdown lines."""
    return "\n".join(f"- {line}" for line in lines)


def points(value: float | None, digits: int = 1) -> str:
    """A share in percent, without its sign."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


@cache
def _environment() -> Environment:
    # Markdown is not HTML: `escape` is applied where text comes from a file.
    environment = Environment(
        loader=PackageLoader("benchmark.report"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    for filter_ in (escape, code, heading, cells, bullets, points):
        environment.filters[filter_.__name__] = filter_
    return environment


def render(template: str, **values: Any) -> str:
    """A page, which ends with one newline.

    Raises `jinja2.UndefinedError` for a name in the template that `values` lacks.
    """
    return _environment().get_template(template).render(**values).rstrip("\n") + "\n"
