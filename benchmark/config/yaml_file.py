"""YAML files read into frozen models, with errors of one line."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning

from benchmark.core.errors import UserError
from benchmark.core.value import first_error

AnyModel = TypeVar("AnyModel", bound=BaseModel)


ENTRIES = 100_000
"""Largest number of entries with aliases written out; a dozen lines can have billions."""


def shown(path: Path) -> str:
    """A file's name in errors: of a track's file with the folders `tracks/NAME`."""
    return "/".join(path.parts[-3:]) if path.parent.parent.name == "tracks" else path.name


def load(path: Path) -> Any:
    """The values of a YAML file; UserError if it is not YAML."""
    return loads(path.read_bytes(), shown(path))


def loads(raw: bytes, where: str) -> Any:
    """The values of a YAML text in UTF-8; UserError, which begins with `where`, if it is not YAML."""
    try:
        with warnings.catch_warnings():
            # E.g. for an anchor that is defined twice, of which one would be lost.
            warnings.simplefilter("error", YAMLWarning)
            found = YAML(typ="safe", pure=True).load(raw.decode("utf-8"))
        count = _entries(found, {})
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{where}: {place}{error.problem}") from None
    except (YAMLWarning, YAMLError, ValueError, RecursionError) as error:
        # Also for numbers of thousands of digits and endless nesting.
        raise UserError(f"{where}: {str(error)[:200]}") from None
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
        raise UserError(
            f"{where}: {first_error(error, model, json.loads(text), written)}"
        ) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: not plain keys and values ({error})") from None
