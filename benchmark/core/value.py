"""Frozen values that are written and read as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmark.core.errors import unknown


class Value(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, only those that were given."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def first_error(
    error: ValidationError,
    model: type[BaseModel],
    raw: Any,
    written: Mapping[str, str] | None = None,
) -> str:
    """The first error of a model's values in one line: the key, the value and what is expected.

    `raw` holds the values that were checked. `written` has the names that users know of fields with
    another name.
    """
    # An unknown key comes first: it is often the misspelt form of the missing one.
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    path, kind = _keys(raw, first["loc"]), first["type"]
    key, message = ".".join(path), first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "extra_forbidden":
        names = [(written or {}).get(name, name) for name in allowed_keys(model, path[:-1])]
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
    if kind == "value_error" and not key:
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


def allowed_keys(model: type[BaseModel], path: Sequence[str]) -> set[str]:
    """The keys that a model allows in the mapping at a path; none if it allows any."""
    schema = model.model_json_schema()

    def alternatives(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            yield from alternatives(schema["$defs"][node["$ref"].rpartition("/")[2]])
        for inner in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from alternatives(inner)
        yield node

    def below(node: dict[str, Any], key: str) -> dict[str, Any]:
        inner = node.get("properties", {}).get(key) or node.get("additionalProperties")
        found = inner or node.get("items")
        return found if isinstance(found, dict) else {}

    nodes = list(alternatives(schema))
    for key in path:
        nodes = [found for node in nodes for found in alternatives(below(node, key))]
    return {name for node in nodes for name in node.get("properties", {})}
