"""Templates refuse names that they are not given, and text from files stays text."""

from __future__ import annotations

from importlib import resources

import pytest
from jinja2 import UndefinedError

from benchmark.report.markdown import code, escape, render

TEMPLATES = sorted(
    path.name for path in resources.files("benchmark.report").joinpath("templates").iterdir()
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", "a\\|b"),
        ("a\n b\r\nc", "a b c"),
        ("<img src=x>&", "&lt;img src=x&gt;&amp;"),
        ("*b* _i_ `c` [l](u)", "\\*b\\* \\_i\\_ \\`c\\` \\[l\\](u)"),
        ("back\\slash", "back\\\\slash"),
        ("none-skipinit", "none-skipinit"),
    ],
)
def test_escaping(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_code_cannot_end_its_backticks() -> None:
    assert code("a`b\nc") == "a'b c"


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_name_that_is_not_given_is_an_error(template: str) -> None:
    with pytest.raises(UndefinedError):
        render(template)
