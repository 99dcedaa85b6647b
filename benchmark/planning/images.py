"""Where a track's built images are, and whether they are those that its `params.yaml` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmark.components import registry
from benchmark.config.overrides import PRIVATE, flags
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.data import manifest as manifests
from benchmark.data.manifest import Manifest

CONVERTIBLE = ((1, 3), (3, 1))
"""Pairs of numbers of channels of which one becomes the other, see `data.resample`."""


def data_folder(root: Path, track: str) -> Path:
    """The folder of a track's built images."""
    return root / "data" / track


def remember(root: Path, params: Params, checksum: str) -> None:
    """Stores a hash of the options that the manifest of the images with this checksum leaves out.

    They are private, such as a path. The hash is stored beside the folder of the images, which is a DVC
    output and may be published.
    """
    if note := _unrecorded(params, checksum):
        canonical_json.write(_note(root, params), note)


def _note(root: Path, params: Params) -> Path:
    return root / "data" / f"{params.track}.options"


def _unrecorded(params: Params, checksum: str) -> str | None:
    """A hash of the options that choose images and are not in a manifest; None without any."""
    options = {name: params.data.options[name] for name in _places(params)}
    return canonical_json.checksum({"dataset": checksum, "options": options}) if options else None


def _places(params: Params) -> list[str]:
    """Unrecorded options that choose images, which are paths. Those that are numbers set a limit."""
    facts = registry.facts("source", params.data.source)
    return [
        name
        for name in facts.get("unrecorded", ())
        if facts["options"][name] == "str" and params.data.options[name]
    ]


def check_images(root: Path, params: Params) -> None:
    """Raises UserError if a track's images were built from another `data` than that of the params."""
    if (data_folder(root, params.track) / manifests.MANIFEST).is_file():
        dataset_checksum(root, params)


def check_transfer(folder: Path, transfer: Mapping[str, str]) -> None:
    """Raises UserError if images that a cell is also judged on are missing, others or do not fit.

    `folder` has the built images of the cell's own track; those of the others are beside it.
    """
    for track, sha256 in transfer.items():
        manifest, own = manifests.read(folder.with_name(track)), manifests.read(folder)
        where = f"evaluation.transfer: {track}"
        if manifest.sha256 != sha256:
            raise UserError(
                f"{where} is {sha256}, and the built images have the checksum {manifest.sha256}; "
                f"{manifests.again(track)} if they are not those that you mean"
            )
        counts = own.shape[0], manifest.shape[0]
        if counts not in CONVERTIBLE and counts[0] != counts[1]:
            raise UserError(
                f"{where} has images of {counts[1]} channels, expected {counts[0]}, or 1 for 3 or "
                "3 for 1"
            )


def dataset_checksum(root: Path, params: Params) -> str:
    """The checksum of a track's built images; raises UserError as `built` does."""
    return built(root, params).sha256


def built(root: Path, params: Params) -> Manifest:
    """The manifest of a track's built images.

    Raises UserError if they have not been built, or were built from another `data` than that of the
    params. Unrecorded options are compared with the note that `remember` makes; images from elsewhere
    have none.
    """
    folder, data = data_folder(root, params.track), params.data
    path = folder / manifests.MANIFEST
    # A command to fill in: with PRIVATE as a value it would be one to run and to fail.
    given = flags(params.overrides).replace(PRIVATE, "…")
    again = manifests.again(f"{params.track} {given}".strip())
    manifest = manifests.read(folder)
    source, facts = manifest.source, registry.facts("source", data.source)
    recorded = [registry.recorded(data.source, given) for given in (source.options, data.options)]
    compared = {
        "track": (manifest.track, params.track),
        "source": (source.name, data.source),
        "version": (source.version, facts["version"]),
        "sha256 of the plug-in": (source.sha256, facts.get("sha256")),
        "options": recorded,
        "seed": (manifest.seed, data.seed),
        "splits": (manifest.asked, data.splits.model_dump(exclude_none=True)),
    }
    for key, (found, asked) in compared.items():
        if found != asked:
            raise UserError(f"{path}: {key} is {found!r}, params ask for {asked!r}; {again}")
    note = _note(root, params)
    noted = note.read_text(encoding="utf-8") if note.is_file() else None
    if (places := _places(params)) and noted not in (None, _unrecorded(params, manifest.sha256)):
        raise UserError(
            f"{path}: built from another {' or '.join(places)} than params ask for; {again}"
        )
    return manifest
