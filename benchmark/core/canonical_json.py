"""JSON with one text for each value, and its checksum."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json


def compact(value: Any) -> str:
    """JSON with sorted keys and no spaces; NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pretty(value: Any) -> str:
    """JSON for people and diffs: sorted keys, one entry a line, a newline at the end."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def checksum(value: Any) -> str:
    """sha256 (hex) of the compact JSON."""
    return sha256(compact(value))


def compacted(text: str) -> str:
    """The compact JSON of a value from the text that `pretty` made of it.

    Spelling the numbers of thousands of records again takes longer than reading them.
    """
    if '\\"' in text or not text.isascii():
        return compact(json.loads(text))
    return re.sub(r"\n *", "", text).replace('": ', '":')


def write(path: Path, content: str | bytes) -> None:
    """Writes a whole file or nothing: to a temporary file beside it, which is then renamed."""
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
            # The error of a full disk does not name the file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


SEAL = "sha256"
"""The key of a sealed file's checksum, which is that of its text with an empty checksum."""

_EMPTY = f'\n "{SEAL}": ""'
"""The text of this key at the top level, where `pretty` indents by one space."""


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON together with its own checksum."""
    text = pretty({**content, SEAL: ""})
    write(path, text.replace(_EMPTY, f'{_EMPTY[:-1]}{sha256(text)}"', 1))


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The content of a sealed file; None if it is missing or any byte has changed."""
    try:
        text = path.read_bytes().decode()  # `read_text` would convert line ends
        found = from_json(text)
        seal = found.pop(SEAL)
        # Of the text, not of the values: writing thousands of records again takes seconds.
        same = sha256(text.replace(f'{_EMPTY[:-1]}{seal}"', _EMPTY, 1)) == seal
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return dict(found) if same else None


def sealed_text(path: Path) -> str | None:
    """The text of a file of `write_sealed` without its checksum; None where that does not hold."""
    try:
        above, _, rest = path.read_bytes().decode().partition(f"{_EMPTY[:-1]}")
    except (OSError, ValueError):
        return None
    seal, _, below = rest.partition('"')
    return above + below.removeprefix(",") if sha256(above + _EMPTY + below) == seal else None


def sha256(text: str) -> str:
    """sha256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
