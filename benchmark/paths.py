"""Where things stand in a project folder."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.errors import UserError


def data_folder(root: Path, track: str) -> Path:
    """Where a track's built images are."""
    return root / "data" / track


def dataset_checksum(root: Path, track: str) -> str:
    """The checksum of a track's built images; UserError where they have not been built."""
    manifest = data_folder(root, track) / "manifest.json"
    try:
        return str(json.loads(manifest.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{manifest} is missing or damaged: run `benchmark data {track}`") from None
