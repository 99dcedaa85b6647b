"""Reads and checks a track's `params.yaml`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from benchmark.checks import checked
from benchmark.errors import UserError, unknown
from benchmark.schema import Control, MethodParams, Params


def track_file(root: Path, track: str) -> Path:
    """A track's params.yaml: the one at the top for `mini`, `tracks/NAME/params.yaml` for others."""
    path = root / "params.yaml" if track == "mini" else root / "tracks" / track / "params.yaml"
    if not path.is_file():
        known = {p.parent.name for p in (root / "tracks").glob("*/params.yaml")}
        if not (root / "params.yaml").is_file():
            raise UserError(f"no params.yaml in {root}: run this at the top of the project")
        raise unknown("track", track, known | {"mini"})
    return path


def read(path: Path) -> Params:
    """The checked params of one track; anything wrong is a UserError of one line."""
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path.name}: {place}{' '.join(str(error.problem).split())}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        # Also numbers of thousands of digits, and nesting without an end.
        raise UserError(f"{path.name}: {' '.join(str(error).split())[:200]}") from None
    return parse(raw, path.name)


def parse(raw: Any, where: str) -> Params:
    """Checks loaded YAML: types and keys, then the names and options of components."""
    raw = _with_likes(raw)
    try:
        # By way of JSON, so that strict checking takes YAML's lists for tuples.
        params = Params.model_validate_json(json.dumps(raw))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{where}: not plain keys and values ({error})") from None
        raise UserError(f"{where}: {_one_line(error)}") from None
    return checked(params)


def _with_likes(raw: Any) -> Any:
    """The same params with each `methods` entry that is `like` another one written out."""
    methods = raw.get("methods") if isinstance(raw, dict) else None
    if not isinstance(methods, dict):
        return raw
    return {**raw, "methods": {name: _written_out(name, methods, ()) for name in methods}}


def _written_out(name: Any, methods: dict[Any, Any], above: tuple[Any, ...]) -> Any:
    entry = methods[name]
    if not isinstance(entry, dict) or "like" not in entry:
        return entry
    other = entry["like"]
    if not isinstance(other, str) or other not in methods:
        raise unknown(f"method that {name} is like:", str(other), map(str, methods))
    if other in (*above, name):
        raise UserError(f"methods: {name} is like {other}, which comes back to itself")
    base = _written_out(other, methods, (*above, name))
    own = {key: value for key, value in entry.items() if key != "like"}
    if not isinstance(base, dict):
        return own
    return {"method": other, **_merged(base, own)}


def _merged(base: dict[Any, Any], own: dict[Any, Any]) -> dict[Any, Any]:
    """`base` with the values of `own`, mapping by mapping."""
    both = {
        key: _merged(base[key], value)
        for key, value in own.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return {**base, **own, **both}


_NOT_KEYS = ("recipe", "control", "int", "float")
"""What pydantic puts into the path of an error for the alternatives of a union."""


def _one_line(error: ValidationError) -> str:
    # An unknown key comes first: it is often the misspelt form of the one that is missing.
    found = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    first = found[0]
    path = [str(p) for p in first["loc"] if p not in _NOT_KEYS]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return str(unknown("key", key, _fields(first["loc"])))
    if first["type"] == "missing":
        if path[-1].isdigit():
            return f"{'.'.join(path[:-1])} has too few entries"
        return f"key {key!r} is missing"
    if first["type"] == "too_short":
        least = first.get("ctx", {}).get("min_length")
        return f"{key} is {first['input']!r}, expected at least {least} entries"
    if not key:
        return "is empty or not a mapping of keys"
    return f"{key} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _fields(loc: tuple[int | str, ...]) -> list[str]:
    """The keys allowed beside the one at `loc`, with the path before it, for the nearest name."""
    prefix = ".".join(str(p) for p in loc[:-1] if p not in _NOT_KEYS)
    model: Any = Params
    for part in loc[:-1]:
        if part in ("recipe", "control"):
            model = MethodParams if part == "recipe" else Control
            continue
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = fields[str(part)].annotation
            inner = getattr(model, "__args__", (model,))
            model = inner[0] if inner[-1] is Ellipsis else inner[-1]
    names = list(getattr(model, "model_fields", {}))
    if model in (MethodParams, Control):
        names = ["like", *(name for name in names if name != "method")]
    return [f"{prefix}.{name}" if prefix else name for name in names]
