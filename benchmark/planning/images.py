"""A track's built images: where they are, and whether they are those that the params ask for."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.components import registry
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.data import manifest as manifests


def data_folder(root: Path, track: str) -> Path:
    """Where a track's built images are."""
    return root / "data" / track


def remember(root: Path, params: Params, checksum: str) -> None:
    """Notes the options that a manifest leaves out, of images just built with this checksum.

    They are a user's own, such as a path, so the note is a hash of them. It is beside the folder of the
    images, which is an output of DVC's and may be published.
    """
    if note := _unrecorded(params, checksum):
        canonical_json.write(_note(root, params), note)


def _note(root: Path, params: Params) -> Path:
    return root / "data" / f"{params.track}.options"


def _unrecorded(params: Params, checksum: str) -> str | None:
    """A hash of the options that a manifest leaves out; None where there are none.

    Of those that say which images, such as a path. An option with a default only says what is accepted.
    """
    options = {name: params.data.options[name] for name in _places(params)}
    return canonical_json.checksum({"dataset": checksum, "options": options}) if options else None


def _places(params: Params) -> list[str]:
    facts = registry.facts("source", params.data.source)
    return [name for name in facts.get("unrecorded", ()) if name not in facts.get("defaults", {})]


def check_images(root: Path, params: Params) -> None:
    """Raises UserError if a track's images are built, and not from the `data` of the params."""
    if (data_folder(root, params.track) / manifests.MANIFEST).is_file():
        dataset_checksum(root, params)


def dataset_checksum(root: Path, params: Params) -> str:
    """The checksum of a track's built images.

    UserError where they have not been built, or from another `data` than the params ask for now. Without
    the note that `remember` makes (the images came from elsewhere) unrecorded options are not compared.
    """
    path = data_folder(root, params.track) / manifests.MANIFEST
    again = manifests.again(params.track)
    data = params.data
    facts = registry.facts("source", data.source)
    wanted = {
        "track": params.track,
        "source": data.source,
        "version": facts["version"],
        "sha256 of the plug-in": facts.get("sha256"),
        "options": registry.recorded(data.source, data.options),
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
            "options": registry.recorded(data.source, source["options"]),
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
    note = _note(root, params)
    noted = note.read_text(encoding="utf-8") if note.is_file() else None
    if (places := _places(params)) and noted not in (None, _unrecorded(params, checksum)):
        raise UserError(
            f"{path}: built from another {' or '.join(places)} than params ask for; {again}"
        )
    return checksum
