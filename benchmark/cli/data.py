"""`benchmark data`: fetches, verifies and builds a track's images."""

from __future__ import annotations

import argparse

from benchmark.cli.common import read_params
from benchmark.planning.images import data_folder, remember

HELP = "fetch, verify and build a track's images"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    verb.add_argument("track", nargs="?", default="mini")


def run(arguments: argparse.Namespace) -> None:
    """Fetches, verifies and builds a track's images."""
    found = read_params(arguments)
    from benchmark.data.build import build

    manifest = build(
        found.track, found.data.source, found.data.options, found.data.splits.model_dump(),
        found.data.seed, data_folder(arguments.root, found.track),
        arguments.root / "data" / "downloads",
    )  # fmt: skip
    remember(arguments.root, found, manifest["sha256"])
    counts = ", ".join(f"{name} {part['count']}" for name, part in manifest["splits"].items())
    print(f"{found.track}: {counts}; sha256 {manifest['sha256']}")
