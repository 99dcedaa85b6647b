"""Reads and checks a track's `params.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.config import overrides, yaml_file
from benchmark.config.schema import Params
from benchmark.config.validate import checked
from benchmark.core.errors import UserError, unknown, within

EXTENSIONS = 20
"""Largest number of recipes in a chain that each extend the next."""

BEFORE = ("families",)
"""Keys of a `params.yaml` of version 1."""


def track_file(root: Path, track: str) -> Path:
    """A track's params.yaml: the one at the top for `mini`, `tracks/NAME/params.yaml` for others."""
    path = root / "params.yaml" if track == "mini" else root / "tracks" / track / "params.yaml"
    if not path.is_file():
        if not (root / "params.yaml").is_file():
            raise UserError(f"no params.yaml in {root}: run this at the top of the project")
        raise unknown("track", track, tracks(root))
    return path


def tracks(root: Path) -> list[str]:
    """The names of a project's tracks, `mini` first."""
    return ["mini", *sorted(path.parent.name for path in (root / "tracks").glob("*/params.yaml"))]


def read(path: Path, given: Sequence[str] = ()) -> Params:
    """The checked params of one track; UserError if anything is wrong.

    `given` holds each `KEY=VALUE` that replaces a value of the file, see `overrides`.
    """
    raw, where = yaml_file.load(path), yaml_file.shown(path)
    if not given or not isinstance(raw, dict):
        return parse(raw, where)
    tree, values = overrides.applied(raw, given)
    found = parse(tree, overrides.described(where, given))
    return found.under(overrides.public(values, found))


def parse(raw: Any, where: str) -> Params:
    """Checks loaded YAML: types and keys, then the names and options of components."""
    if isinstance(raw, dict) and any(key in raw for key in BEFORE):
        raise UserError(
            f"{where} has the keys of version 1 ({', '.join(k for k in BEFORE if k in raw)}): rename "
            "them as docs/migration.md lists, or start from this version's params.yaml"
        )
    # `extends` is resolved before the types are checked: `method` and the keys of the other recipe.
    with within(where):
        whole = _extended(raw)
    found = yaml_file.parse(Params, whole, where, {"method": "extends"})
    with within(where):
        return checked(found)


def _extended(raw: Any) -> Any:
    """The same params with the recipes that extend others written out."""
    methods = raw.get("methods") if isinstance(raw, dict) else None
    if not isinstance(methods, dict):
        return raw
    return {**raw, "methods": {name: _written_out(name, methods, ()) for name in methods}}


def _written_out(name: Any, methods: dict[Any, Any], above: tuple[Any, ...]) -> Any:
    entry = methods[name]
    if not isinstance(entry, dict) or "extends" not in entry:
        return entry
    other = entry["extends"]
    if not isinstance(other, str) or other not in methods:
        raise unknown(f"method that {name} extends:", str(other), map(str, methods))
    if other in (*above, name):
        raise UserError(f"methods: {name} extends {other}, which extends {name}")
    if len(above) == EXTENSIONS:
        raise UserError(f"methods: {above[0]} extends a chain of more than {EXTENSIONS} recipes")
    base = _written_out(other, methods, (*above, name))
    own = {key: value for key, value in entry.items() if key != "extends"}
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
