"""The JSON schemas in docs/ are those of the published types, and published files have their form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmark.report.document import schema
from tests.helpers.made_up import PROJECT
from tools.schemas import FOLDER, KINDS

PUBLISHED = [
    ("leaderboard", "length"),
    ("leaderboard", "views-and-gain"),
    ("claims", "claims"),
    ("verdicts", "../verdicts"),
    ("provenance", "provenance/length/simclr"),
    *(("rates", f"rates/{path.stem}") for path in (PROJECT / "results/mini/rates").glob("*.json")),
]


@pytest.mark.parametrize("name", KINDS)
def test_docs_hold_the_schema_of_the_types(name: str) -> None:
    stored = (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    assert stored == schema(KINDS[name]), "run `uv run python -m tools.schemas`"


def departures(value: Any, asked: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    """Where a value is not of the form that a schema asks for, by the words that ours use."""
    if "$ref" in asked:
        asked = schema["$defs"][asked["$ref"].rsplit("/", 1)[-1]]
    if options := asked.get("anyOf"):
        found = [list(departures(value, option, schema, at)) for option in options]
        yield from min(found, key=len)
        return
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
        "boolean": bool, "null": type(None),
    }  # fmt: skip
    kind = asked.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (kind != "boolean" and value is True)):
        yield f"{at}: {value!r} is no {kind}"
    elif "enum" in asked and value not in asked["enum"]:
        yield f"{at}: {value!r} is none of {asked['enum']}"
    elif kind == "object":
        known = asked.get("properties", {})
        more = asked.get("additionalProperties", False)
        yield from (
            f"{at}.{key} is missing" for key in asked.get("required", []) if key not in value
        )
        for key, inner in value.items():
            below = known.get(key, more)
            if below is False:
                yield f"{at}.{key} is unknown"
            elif below is not True:
                yield from departures(inner, below, schema, f"{at}.{key}")
    elif kind == "array" and "items" in asked:
        for place, inner in enumerate(value):
            yield from departures(inner, asked["items"], schema, f"{at}[{place}]")


@pytest.mark.parametrize(("kind", "name"), PUBLISHED)
def test_published_files_are_of_the_schema(kind: str, name: str) -> None:
    document = json.loads((PROJECT / "results" / "mini" / f"{name}.json").read_text("utf-8"))
    found = json.loads((FOLDER / f"{kind}.schema.json").read_text("utf-8"))
    assert not list(departures(document, found, found, name))
    key = found["required"][0]
    del document[key]
    assert list(departures(document, found, found, name)) == [f"{name}.{key} is missing"]
