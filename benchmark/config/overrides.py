"""Values of `params.yaml` that the command line sets: `--set KEY=VALUE`.

The key is the path from the top of the file, with dots between its parts. If a name has dots itself,
the longest name in the file is meant; a part in double quotes is one name. The value is YAML. It
replaces the value of the file, or is a new entry. Anchors are written out first: nothing else changes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmark.components import registry
from benchmark.config import yaml_file
from benchmark.config.schema import Params
from benchmark.core.errors import UserError, unknown, within
from benchmark.core.value import allowed_keys

PRIVATE = "(not published)"
"""Stands for a value that no published file holds."""

_PART = re.compile(r'"([^"]+)"|([^".]+)')
_KEY = re.compile(rf"(?:{_PART.pattern})(?:\.(?:{_PART.pattern}))*")


def applied(tree: dict[str, Any], given: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tree of a `params.yaml` with each `KEY=VALUE` set, and the values by key.

    A mapping is set before what is below it, whatever the order of `given`. Raises UserError, which
    names the `--set`, for a text without a key or a value, a value that is not YAML, a key that leads
    through a value or an unknown name, a key that is set twice, and for `track`.
    """
    values: dict[str, Any] = {}
    for text in sorted(given, key=lambda text: text.partition("=")[0]):
        key, _, value = (part.strip() for part in text.partition("="))
        with within(f"--set {text}"):
            if not value or not _KEY.fullmatch(key):
                raise UserError("expected KEY=VALUE, e.g. training.batch_size=128")
            path = _path(tree, key)
            name = _dotted(path)
            if name == "track":
                raise UserError("`--track` chooses the track")
            if name in values:
                raise UserError(f"{name} is set twice")
        raw = value.encode("utf-8", "surrogateescape")
        values[name] = yaml_file.loads(raw, f"--set {text}")
        tree = _with(tree, path, values[name])
    return tree, values


def described(where: str, given: Sequence[str]) -> str:
    """The name of a file in errors, with what was set, as it was typed."""
    return f"{where}{' with' if given else ''}{''.join(f' --set {text}' for text in given)}"


def public(values: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """The values as JSON has them, without those of options that no published file holds.

    Such a value, e.g. the path of a source or of weights, is named and not shown.
    """
    unrecorded = registry.facts("source", params.data.source).get("unrecorded", ())
    hidden = {f"data.options.{name}" for name in unrecorded}
    for name in params.backbones:
        hidden |= {f"backbones.{name}.weights", f"{_dotted(('backbones', name))}.weights"}

    def shown(key: str, value: Any) -> Any:
        if key in hidden:
            return PRIVATE
        if isinstance(value, dict):
            return {name: shown(f"{key}.{name}", inner) for name, inner in value.items()}
        return value

    written = json.loads(json.dumps(dict(values)))
    return {key: shown(key, value) for key, value in written.items()}


def flags(overrides: Mapping[str, Any]) -> str:
    """The arguments of a command that set these values, as a shell reads them."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    given = (f"{key}={text(value)}" for key, value in sorted(overrides.items()))
    return " ".join(f"--set {shlex.quote(one)}" for one in given)


def _path(tree: Any, key: str) -> list[str]:
    """The names from the top of a tree to the value that a key asks for."""
    rest = [(quoted or plain, bool(quoted)) for quoted, plain in _PART.findall(key)]
    path: list[str] = []
    while rest:
        if not isinstance(tree, dict):
            raise UserError(f"{_dotted(path)} is {tree!r}, not a mapping of keys")
        names = {1: rest[0][0]}
        for count in range(2, len(rest) + 1):
            if not any(quoted for _, quoted in rest[:count]):
                names[count] = ".".join(name for name, _ in rest[:count])
        count = max((count for count, name in names.items() if name in tree), default=1)
        name, rest = names[count], rest[count:]
        if rest and name not in tree and name not in (fixed := allowed_keys(Params, path)):
            known = [_dotted([*path, str(other)]) for other in {*tree, *fixed}]
            hint = "" if fixed else '; a new name with dots needs quotes: "a.b"'
            raise UserError(f"{unknown('key', _dotted([*path, name]), known)}{hint}")
        path.append(name)
        tree = tree.get(name, {})
    return path


def _dotted(path: Iterable[str]) -> str:
    return ".".join(f'"{name}"' if "." in name else name for name in path)


def _with(tree: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of a tree with another value at a path."""
    name, *below = path
    return {**tree, name: _with(tree.get(name, {}), below, value) if below else value}
