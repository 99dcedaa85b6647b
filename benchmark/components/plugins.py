"""Components from outside the package: one file named by the user, or entry points of a package.

Their facts are read without importing them, and checked. A file is named with `--plugin`, or in a
variable that worker processes and DVC's stages inherit. The imported source has the sha256 of the
fingerprint.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmark.components.literals import literal
from benchmark.core.errors import UserError

VARIABLE = "BENCHMARK_PLUGINS"
"""Paths of files, separated as in PATH."""

GROUP = "benchmark.components"
"""The group of entry points; each names a module with a COMPONENT."""


@contextlib.contextmanager
def added(files: Sequence[str]) -> Iterator[None]:
    """Adds files to the variable, for this process and those it starts."""
    before = os.environ.get(VARIABLE)
    if files:
        os.environ[VARIABLE] = os.pathsep.join([*named(), *(_absolute(file) for file in files)])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def named() -> tuple[str, ...]:
    """The files in the variable, as absolute paths, each once."""
    given = os.environ.get(VARIABLE, "").split(os.pathsep)
    return tuple(dict.fromkeys(_absolute(file) for file in given if file))


def _absolute(file: str) -> str:
    try:
        return str(Path(file).expanduser().absolute())
    except RuntimeError as error:
        raise UserError(f"plug-in {file}: {error}") from None


@functools.cache
def found(files: tuple[str, ...]) -> list[dict[str, Any]]:
    """The checked facts of every plug-in: of installed packages, then of `files`.

    Adds `where`, for messages, and `module`; for a file also its `path` and the `sha256` of its bytes.
    Raises UserError for a plug-in that is wrong.
    """
    facts = []
    for point in sorted(importlib.metadata.entry_points(group=GROUP)):
        package = point.dist.name if point.dist else "an unnamed package"
        where = f"plug-in {point.value} ({package})"
        source = _located(point.value, where)
        facts += _facts(source, where, {"where": where, "module": point.value})
    for file in files:
        where = f"plug-in {file}"
        source = _read(Path(file), where)
        # Two files may have the same name, so the module's name depends on the folder.
        folder = hashlib.sha256(file.encode()).hexdigest()[:8]
        more = {
            "where": where,
            "module": f"benchmark_plugins.{Path(file).stem}_{folder}",
            "path": file,
            "sha256": hashlib.sha256(source).hexdigest(),
        }
        facts += _facts(source, where, more)
    return facts


def load(facts: Mapping[str, Any]) -> ModuleType:
    """The imported module of a plug-in; UserError if it cannot be imported or lacks its function."""
    module = sys.modules.get(facts["module"])
    if module is None:
        module = _imported(facts)
    function = "read" if facts["kind"] == "source" else "build"
    if not callable(getattr(module, function, None)):
        raise UserError(f"{facts['where']}: has no function {function!r}")
    return module


def _read(path: Path, where: str) -> bytes:
    if path.suffix != ".py":
        raise UserError(f"{where}: expected a Python file, *.py")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None


def _located(module: str, where: str) -> bytes:
    """The source of an installed module, found without running it or its packages."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for part in inner:
            above = spec.submodule_search_locations if spec else None
            spec = PathFinder.find_spec(f"{spec.name}.{part}", above) if spec and above else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.has_location:
        raise UserError(f"{where}: no such module is installed")
    return _read(Path(spec.origin), where)


def _facts(source: bytes, where: str, more: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        value = literal(source, "COMPONENT")
    except SyntaxError as error:
        raise UserError(f"{where}: not Python: line {error.lineno}: {error.msg}") from None
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: COMPONENT is not a literal ({error})") from None
    # Only for plug-ins: pydantic takes longer to import than `--help` may take.
    from benchmark.components.facts import KINDS, check_facts

    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}: states no COMPONENT, expected COMPONENT = {{'kind': …, …}}")
    for entry in entries:
        if "kind" not in entry:
            raise UserError(f"{where}: COMPONENT lacks 'kind' (one of {', '.join(KINDS)})")
        check_facts(where, entry["kind"], entry)
    return [{**entry, **more} for entry in entries]


def _imported(facts: Mapping[str, Any]) -> ModuleType:
    where, name = facts["where"], facts["module"]
    try:
        if "path" not in facts:
            return importlib.import_module(name)
        source = _read(Path(facts["path"]), where)
        if hashlib.sha256(source).hexdigest() != facts["sha256"]:
            raise UserError(f"{where}: changed since this command began")
        # Not by a loader, which may use cached code of a source written in the same second.
        module = ModuleType(name)
        module.__file__ = facts["path"]
        # Findable by name, as dataclasses and pickle expect.
        sys.modules[name] = module
        exec(compile(source, facts["path"], "exec"), module.__dict__)
        return module
    except UserError:
        sys.modules.pop(name, None)
        raise
    except Exception as error:
        sys.modules.pop(name, None)
        raise UserError(f"{where}: {_told(error, facts.get('path'))}") from error


def blamed(plugins: Sequence[Mapping[str, Any]], error: Exception) -> UserError | None:
    """An error in one line that names the plug-in whose code failed, or else the first plug-in."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    for entry in [e for e in plugins if _file(e) in files] or plugins[:1]:
        return UserError(f"{entry['where']}: {_told(error, _file(entry))}")
    return None


def _file(entry: Mapping[str, Any]) -> str | None:
    module = sys.modules.get(entry["module"])
    return getattr(module, "__file__", None) if module else None


def _told(error: Exception, path: str | None) -> str:
    """An error in one line, with the line of the plug-in that raised it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    said = f"{type(error).__name__}: {error}"
    return f"line {line}: {said}" if line else said
