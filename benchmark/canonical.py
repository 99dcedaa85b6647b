"""JSON with one spelling for one value, and its checksum."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def compact(value: Any) -> str:
    """JSON with sorted keys and no spaces; NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pretty(value: Any) -> str:
    """JSON for people and diffs: sorted keys, one entry a line, a newline at the end."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def checksum(value: Any) -> str:
    """sha256 (hex) of the compact JSON."""
    return hashlib.sha256(compact(value).encode()).hexdigest()


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: to a temporary name beside it, then moved into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            # A full disk does not say what there was no room for.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


SEAL = "sha256"
"""The key under which a sealed file holds the checksum of everything else in it."""


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON together with its own checksum."""
    # Keys and numbers as they will be read back.
    plain = json.loads(compact(content))
    write(path, pretty({**plain, SEAL: checksum(plain)}))


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            return None
        # Without one it counts as damaged: a changed letter in the key's name would hide any change.
        if found.pop(SEAL, None) != checksum(found):
            return None
    except (OSError, ValueError):
        return None
    return found
