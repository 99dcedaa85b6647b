"""Finds components (methods, norms, families, sources) as files, without importing them.

A component file states its facts as a module-level literal (`COMPONENT = {...}`), which is read
with `ast`, so that `plan`, `--help` and error messages need not wait for torch. Adding a component
is adding a file: nothing lists them.
"""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.errors import unknown

FOLDERS = {
    "method": "methods",
    "norm": "norms",
    "family": "backbones",
    "source": "data/sources",
    "optimizer": "training/optimizers",
}
"""Each kind of component and the folder, inside the package, whose files define it."""


@functools.cache
def catalogue(kind: str) -> dict[str, dict[str, Any]]:
    """The facts of every component of `kind` by name, each with its `module` added.

    A file may define several components: its `COMPONENT` literal is then a list.
    """
    folder = Path(__file__).parent / FOLDERS[kind]
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.py")):
        module = ".".join(("benchmark", *FOLDERS[kind].split("/"), path.stem))
        for facts in _literal(path):
            if facts["name"] in found:
                raise ValueError(f"{path}: a second {kind} named {facts['name']!r}")
            found[facts["name"]] = {**facts, "module": module}
    return found


def facts(kind: str, name: str) -> dict[str, Any]:
    """The facts of one component; an unknown name is the user's error, with the nearest one."""
    known = catalogue(kind)
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]


def load(kind: str, name: str) -> ModuleType:
    """The component's module, imported."""
    return importlib.import_module(facts(kind, name)["module"])


def constant(path: Path, name: str) -> Any:
    """The value of a module-level literal, read without importing the module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(node.value)
    return None


def _literal(path: Path) -> list[dict[str, Any]]:
    value = constant(path, "COMPONENT")
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
