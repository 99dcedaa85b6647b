"""YAML files read into frozen models, with errors of one line."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning

from benchmark.core.errors import UserError, unknown

AnyModel = TypeVar("AnyModel", bound=BaseModel)


ENTRIES = 100_000
"""Largest number of entries with aliases written out; a dozen lines can have billions."""


def shown(path: Path) -> str:
    """A file's name in errors: of a track's file with the folders `tracks/NAME`."""
    return "/".join(path.parts[-3:]) if path.parent.parent.name == "tracks" else path.name


def load(path: Path) -> Any:
    """The values of a YAML file; UserError if it is not YAML."""
    where = shown(path)
    try:
        with warnings.catch_warnings():
            # E.g. for an anchor that is defined twice, of which one would be lost.
            warnings.simplefilter("error", YAMLWarning)
            found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        count = _entries(found, {})
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{where}: {place}{' '.join(str(error.problem).split())}") from None
    except (YAMLWarning, YAMLError, ValueError, RecursionError) as error:
        # Also for numbers of thousands of digits and endless nesting.
        raise UserError(f"{where}: {' '.join(str(error).split())[:200]}") from None
    if count > ENTRIES:
        raise UserError(f"{where}: more than {ENTRIES} entries with its aliases written out")
    return found


def _entries(value: Any, known: dict[int, int]) -> int:
    """The number of entries of a value with its aliases written out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        # For a value that contains itself, which `parse` refuses.
        known[id(value)] = 1
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_entries(part, known) for part in parts)
    return known[id(value)]


def parse(
    model: type[AnyModel], raw: Any, where: str, written: Mapping[str, str] | None = None
) -> AnyModel:
    """Checks loaded YAML against a model: types and keys.

    `where` names the file in errors. `written` has the keys of `params.yaml` for fields of another name.
    """
    try:
        text = json.dumps(raw)
        # Through JSON, so that strict checking accepts YAML's lists as tuples.
        return model.model_validate_json(text)
    except ValidationError as error:
        said = _one_line(error, model, json.loads(text), written or {})
        raise UserError(f"{where}: {said}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: not plain keys and values ({error})") from None


def _one_line(
    error: ValidationError, model: type[BaseModel], raw: Any, written: Mapping[str, str]
) -> str:
    # An unknown key comes first: it is often the misspelt form of the missing one.
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    path, kind = _keys(raw, first["loc"]), first["type"]
    key, message = ".".join(path), first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "extra_forbidden":
        names = [written.get(name, name) for name in _allowed(model, path[:-1])]
        return str(unknown("key", key, [".".join([*path[:-1], name]) for name in names]))
    if kind == "missing":
        if isinstance(missing := first["loc"][-1], int):
            return f"{key} has too few entries"
        return f"key {'.'.join([*path, missing])!r} is missing"
    if kind == "too_short":
        return (
            f"{key} is {first['input']!r}, expected at least {first['ctx']['min_length']} entries"
        )
    if kind == "json_invalid":
        # Valid in YAML and not in JSON: half a character, a depth of hundreds.
        return message
    if not key:
        return "is empty or not a mapping of keys"
    return f"{key} is {first['input']!r}: {message}"


def _keys(raw: Any, loc: tuple[int | str, ...]) -> list[str]:
    """The keys in the path of an error. Pydantic also puts names of a union's alternatives there."""
    keys = []
    for part in loc:
        inside = dict(enumerate(raw)) if isinstance(raw, list) else raw
        if isinstance(inside, dict) and part in inside:
            keys.append(str(part))
            raw = inside[part]
    return keys


def _allowed(model: type[BaseModel], path: list[str]) -> set[str]:
    """The keys that a model allows in the mapping at a path."""
    schema = model.model_json_schema()

    def alternatives(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            yield from alternatives(schema["$defs"][node["$ref"].rpartition("/")[2]])
        for inner in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from alternatives(inner)
        yield node

    def below(node: dict[str, Any], key: str) -> dict[str, Any]:
        inner = node.get("properties", {}).get(key) or node.get("additionalProperties")
        found: dict[str, Any] = inner or node.get("items") or {}
        return found

    nodes = list(alternatives(schema))
    for key in path:
        nodes = [found for node in nodes for found in alternatives(below(node, key))]
    return {name for node in nodes for name in node.get("properties", {})}
