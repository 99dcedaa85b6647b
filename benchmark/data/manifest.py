"""What is written down of a built data set, read back checked; without loading torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.core.errors import UserError

FORMAT = 2
"""Version of the two files' layout."""

MANIFEST = "manifest.json"

KEYS = (
    "format", "track", "source", "shape", "classes", "seed", "asked", "splits", "mean", "std",
    "sha256",
)  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a built data set; UserError, saying how to build it anew, where it is damaged."""
    path = folder / MANIFEST
    # Tracks are built into folders of their names; without a manifest nothing else tells.
    how = again(folder.name)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a data set, found no such file; {how}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a manifest, found {error}; {how}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise UserError(f"{path}: expected format {FORMAT}, found {found!r}; {how}")
    for key in KEYS:
        if key not in manifest:
            raise UserError(f"{path}: expected a manifest, found no {key!r}; {how}")
    try:
        expected, actual = manifest["sha256"], dataset_checksum(manifest["splits"])
        parts = [manifest["splits"][name] for name in ("train", "validation", "test")]
        whole = all({"count", "per_class", "sha256"} == set(part) for part in parts)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected a manifest, found no {error}; {how}") from error
    if actual != expected:
        raise UserError(
            f"{path}: expected sha256 {expected} of the data set, found {actual}; {how}"
        )
    if not whole:
        raise UserError(f"{path}: expected count, per_class and sha256 of each split; {how}")
    return manifest


def dataset_checksum(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """sha256 over the splits' checksums, as JSON with sorted keys and no spaces."""
    sums = {name: entry["sha256"] for name, entry in splits.items()}
    canonical = json.dumps(sums, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def again(track: str) -> str:
    """How to build a track's data set."""
    return f"run `uv run benchmark data {track}`"
