"""YAML files read into frozen models; whatever is wrong with one is said in one line."""

from __future__ import annotations

import json
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning

from benchmark.core.errors import UserError, unknown

AnyModel = TypeVar("AnyModel", bound=BaseModel)


ENTRIES = 100_000
"""Most entries of a file with its aliases written out; a dozen lines can stand for billions."""


def shown(path: Path) -> str:
    """What errors call a file: its name, of a track's with the folders below the project's."""
    return "/".join(path.parts[-3:]) if path.parent.parent.name == "tracks" else path.name


def load(path: Path) -> Any:
    """The values of a YAML file; UserError where it is none."""
    where = shown(path)
    try:
        with warnings.catch_warnings():
            # E.g. of an anchor that is defined twice: lines on stderr, and one of the two is lost.
            warnings.simplefilter("error", YAMLWarning)
            found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        count = _entries(found, {})
    except YAMLWarning as warning:
        raise UserError(f"{where}: {' '.join(str(warning).split())[:200]}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{where}: {place}{' '.join(str(error.problem).split())}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        # Also numbers of thousands of digits, and nesting without an end.
        raise UserError(f"{where}: {' '.join(str(error).split())[:200]}") from None
    if count > ENTRIES:
        raise UserError(f"{where}: more than {ENTRIES} entries with its aliases written out")
    return found


def _entries(value: Any, known: dict[int, int]) -> int:
    """How many entries a value has, each as often as it would be written out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        # Of a value that holds itself; whoever reads on refuses it.
        known[id(value)] = 1
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_entries(part, known) for part in parts)
    return known[id(value)]


def parse(
    model: type[AnyModel], raw: Any, where: str, written: Mapping[str, str] | None = None
) -> AnyModel:
    """Checks loaded YAML against a model: types and keys.

    `where` names the file in errors; `written` is what a user types for fields of another name.
    """
    try:
        # By way of JSON, so that strict checking takes YAML's lists for tuples.
        return model.model_validate_json(json.dumps(raw))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{where}: not plain keys and values ({error})") from None
        raise UserError(f"{where}: {_one_line(error, model, written or {})}") from None


def _one_line(error: ValidationError, model: type[BaseModel], written: Mapping[str, str]) -> str:
    # An unknown key comes first: it is often the misspelt form of the one that is missing.
    found = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    first = found[0]
    path, above = _followed(model, first["loc"])
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        names = [written.get(name, name) for name in getattr(above, "model_fields", {})]
        return str(unknown("key", key, [".".join([*path[:-1], name]) for name in names]))
    if first["type"] == "missing":
        if path[-1].isdigit():
            return f"{'.'.join(path[:-1])} has too few entries"
        return f"key {key!r} is missing"
    if first["type"] == "too_short":
        least = first.get("ctx", {}).get("min_length")
        return f"{key} is {first['input']!r}, expected at least {least} entries"
    if first["type"] == "json_invalid":
        # What YAML can say and JSON cannot: half a character, a depth of hundreds.
        return first["msg"][:1].lower() + first["msg"][1:]
    if not key:
        return "is empty or not a mapping of keys"
    return f"{key} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _followed(model: Any, loc: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys that an error's path names, and the type that should hold the last of them.

    Pydantic puts the names of a union's alternatives into the path, and these are no keys.
    """
    keys, at, above = [], model, model
    for part in loc:
        alternatives = list(_alternatives(at))
        taken = [alternative for alternative, names in alternatives if part in names]
        if taken and len(alternatives) > 1:
            at = taken[0]
            continue
        keys.append(str(part))
        # Of several, the first that can have parts: the others are null.
        above = next((a for a, _ in alternatives if _below(a, part) or _is_model(a)), None)
        at = _below(above, part)
    return keys, above


def _alternatives(annotation: Any) -> Iterator[tuple[Any, set[Any]]]:
    """The members of a union, or the one type itself, with the names it can have in a path."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        tags = {note.tag for note in notes if isinstance(note, Tag)}
        for alternative, names in _alternatives(inner):
            yield alternative, names | tags
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _alternatives(member)
    else:
        yield annotation, {getattr(annotation, "__name__", None), *_discriminators(annotation)}


def _discriminators(annotation: Any) -> Iterator[Any]:
    """The literal values of a model's fields, by which a union may choose it."""
    if _is_model(annotation):
        for field in annotation.model_fields.values():
            if get_origin(field.annotation) is Literal:
                yield from get_args(field.annotation)


def _below(annotation: Any, part: int | str) -> Any:
    """The type of a part of a value, None where that has no such part."""
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return field.annotation if field else None
    inner = get_args(annotation)
    if get_origin(annotation) is dict:
        return inner[1]
    if get_origin(annotation) is tuple:
        return inner[0] if inner[-1] is Ellipsis else inner[min(int(part), len(inner) - 1)]
    return None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
