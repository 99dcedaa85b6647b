"""Where things stand in a project folder."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.components import registry
from benchmark.config.schema import Params
from benchmark.core.errors import UserError
from benchmark.data import manifest as manifests


def data_folder(root: Path, track: str) -> Path:
    """Where a track's built images are."""
    return root / "data" / track


def dataset_checksum(root: Path, params: Params) -> str:
    """The checksum of a track's built images.

    UserError where they have not been built, or from another `data` than the params ask for now.
    """
    path = data_folder(root, params.track) / manifests.MANIFEST
    again = manifests.again(params.track)
    data = params.data
    facts = registry.facts("source", data.source)
    unrecorded = facts.get("unrecorded", ())
    wanted = {
        "track": params.track,
        "source": data.source,
        "version": facts["version"],
        "sha256 of the plug-in": facts.get("sha256"),
        "options": {key: data.options[key] for key in data.options if key not in unrecorded},
        "seed": data.seed,
        "splits": data.splits.model_dump(),
    }
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        source = manifest["source"]
        found = {
            "track": manifest["track"],
            "source": source["name"],
            "version": source["version"],
            "sha256 of the plug-in": source.get("sha256"),
            "options": source["options"],
            "seed": manifest["seed"],
            "splits": manifest["asked"],
        }
        checksum = str(manifest["sha256"])
        if checksum != manifests.dataset_checksum(manifest["splits"]):
            raise ValueError("sha256 is not that of the splits")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is missing or damaged: {again}") from None
    for key, value in wanted.items():
        if found[key] != value:
            raise UserError(f"{path}: {key} is {found[key]!r}, params ask for {value!r}; {again}")
    return checksum
