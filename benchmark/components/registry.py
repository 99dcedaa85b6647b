"""Finds components (methods, norms, backbones, sources) as files, without importing them.

A component file states its facts as a module-level literal (`COMPONENT = {...}`), which is read
with `ast`, so that `plan`, `--help` and errors need not load torch. A new component is a new file: no
list names them. Files outside the package are plug-ins.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.components import plugins
from benchmark.components.literals import literal
from benchmark.components.options import check_options
from benchmark.components.options import essential as without_defaults
from benchmark.core.errors import UserError, unknown

FOLDERS = {
    "method": "methods",
    "norm": "norms",
    "backbone": "backbones",
    "source": "data/sources",
    "optimizer": "training/optimizers",
}
"""The folder of each kind of component, inside the package."""


def catalogue(kind: str) -> dict[str, dict[str, Any]]:
    """The facts of every component of `kind` by name, plug-ins included, each with its `module`.

    Raises UserError for a plug-in whose name is taken.
    """
    return _with_plugins(kind, plugins.named())


@functools.cache
def _with_plugins(kind: str, named: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    found = dict(own(kind))
    for facts in plugins.found(named):
        if facts["kind"] != kind:
            continue
        if facts["name"] in found:
            other = found[facts["name"]]
            raise UserError(
                f"{facts['where']}: the {kind} {facts['name']!r} is already defined by "
                f"{other.get('where', other['module'])}"
            )
        found[facts["name"]] = facts
    return found


@functools.cache
def own(kind: str) -> dict[str, dict[str, Any]]:
    """The facts of every component of `kind` in the package, each with its `module`.

    A file may define several components: its `COMPONENT` literal is then a list.
    """
    folder = Path(__file__).parents[1] / FOLDERS[kind]
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.py")):
        module = ".".join(("benchmark", *FOLDERS[kind].split("/"), path.stem))
        value = constant(path, "COMPONENT")
        for facts in value if isinstance(value, list) else [value] if value else []:
            if facts["name"] in found:
                raise ValueError(f"{path}: a second {kind} named {facts['name']!r}")
            found[facts["name"]] = {**facts, "module": module}
    return found


def check_plugins() -> None:
    """Raises UserError if a plug-in is wrong."""
    if plugins.found(plugins.named()):
        for kind in FOLDERS:
            catalogue(kind)


def facts(kind: str, name: str) -> dict[str, Any]:
    """The facts of one component; an unknown name is the user's error, with the nearest one."""
    known = catalogue(kind)
    if name not in known:
        raise UserError(f"{unknown(kind, name, known)}; a plug-in's needs `--plugin FILE`")
    return known[name]


def check(kind: str, name: str, where: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a component, checked, with its defaults; see `options.check_options`."""
    found = facts(kind, name)
    return check_options(where, given, found["options"], found.get("defaults"))


def complete(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a component and the defaults of the others."""
    return {**facts(kind, name).get("defaults", {}), **options}


def essential(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not at the component's defaults, see `options.essential`."""
    return without_defaults(options, facts(kind, name).get("defaults", {}))


def norm_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the norm in a scheme's entry, without the keys that are not the norm's."""
    return {key: value for key, value in spec.items() if key not in ("norm", "parts", "sites")}


def recorded(source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a data source in a manifest: those that decide the images."""
    unrecorded = facts("source", source).get("unrecorded", ())
    kept = {key: value for key, value in options.items() if key not in unrecorded}
    return essential("source", source, kept)


def build(kind: str, name: str, *positional: Any, **options: Any) -> Any:
    """Calls the component's `build` with the options and the defaults of the others."""
    return load(kind, name).build(*positional, **complete(kind, name, options))


def versions(kind: str, name: str) -> dict[str, int | str]:
    """The entry of one component in a fingerprint: its version, e.g. `{"norm bn": 1}`.

    A plug-in file also has its sha256, since it may change without a new version.
    """
    found = facts(kind, name)
    entry: dict[str, int | str] = {f"{kind} {name}": found["version"]}
    return entry | ({f"{kind} {name} file": found["sha256"]} if "sha256" in found else {})


def check_unchanged(components: Mapping[str, int | str]) -> None:
    """Raises UserError if a plug-in file has changed since a cell got its `components`."""
    for key, version in components.items():
        if key.endswith(" file"):
            kind, name = _named(key)
            if versions(kind, name)[f"{kind} {name} file"] != version:
                raise UserError(f"{facts(kind, name)['where']}: changed since the cell was planned")


def blamed(components: Mapping[str, int | str], error: Exception) -> UserError | None:
    """The error of building a cell's network in one line; None if the cell uses no plug-in."""
    return plugins.blamed(plugged(components), error)


def plugged(components: Iterable[str]) -> list[dict[str, Any]]:
    """The facts of the plug-ins among the components of a cell."""
    found = [catalogue(kind).get(name, {}) for kind, name in map(_named, components) if kind]
    return [entry for entry in found if "where" in entry]


def _named(key: str) -> tuple[str, str]:
    # Components that only the fine-tuning uses have its name before theirs.
    key = key.removeprefix("finetune ")
    kind, _, name = key.removesuffix(" file").partition(" ")
    return (kind if kind in FOLDERS else "", name)


def load(kind: str, name: str) -> ModuleType:
    """The component's module, imported."""
    found = facts(kind, name)
    return plugins.load(found) if "where" in found else importlib.import_module(found["module"])


def constant(path: Path, name: str) -> Any:
    """The value of a module-level literal, read without importing the module."""
    return literal(path.read_bytes(), name)
