"""What a machine has of all that a cell needs there. Imports the standard library alone.

A driver sends this file's functions to the nodes of a cluster as they are, so they also run where the
benchmark is not installed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path

PROJECT = "ssl-norm-benchmark"
PACKAGE = "benchmark"


@functools.cache
def packages() -> tuple[str, ...]:
    """The direct dependencies of the benchmark, and Ray."""
    needed = importlib.metadata.requires(PROJECT) or []
    names = [match[0] for line in needed if (match := re.match(r"[\w.-]+", line))]
    return tuple(dict.fromkeys((*names, "ray")))


@functools.cache
def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The version of Python and of each package without its local label (+cu130), and the program.

    The program is stated by its version and a checksum of its source files.
    """
    found = {"python": platform.python_version(), PROJECT: _program()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _program() -> str:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return "missing"
    folder, files = Path(spec.origin).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        files.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    try:
        version = importlib.metadata.version(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        version = "without a version"
    return f"{version} (source {files.hexdigest()[:12]})"


def lacks(
    here: Mapping[str, str], images: Mapping[str, str], shared: str | None, token: str
) -> str | None:
    """The first difference from a driver with the versions `here`, or None.

    `images` are folders of built images with their checksums. `token` is the name of a file that the
    driver has put in the folder `shared`.
    """
    own = versions(tuple(name for name in here if name not in ("python", PROJECT)))
    for name, version in here.items():
        if own[name] != version:
            return (
                f"{name} is {own[name]}, and this command has {version}: install the same "
                "checkout with the same uv.lock there"
            )
    for folder, sha256 in images.items():
        try:
            found = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
            same = found["sha256"] == sha256
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            return (
                f"{folder} does not hold the built images that this command has there: build them, "
                "copy them, or share the folder"
            )
    if shared is not None and not _has(Path(shared), token):
        return f"{shared} is not the folder that this command shares under this path"
    return None


def _has(folder: Path, name: str) -> bool:
    # A network file system may show a new file only after the folder is read.
    return any(path.name == name for path in folder.iterdir()) if folder.is_dir() else False
