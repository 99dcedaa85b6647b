"""`benchmark data`: fetches, verifies and builds a track's images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from benchmark.cli.common import add_set, read_params
from benchmark.data.class_folders import listed
from benchmark.data.manifest import NAMES, UNLABELLED, Manifest
from benchmark.planning.images import data_folder, remember

HELP = "fetch, verify and build a track's images"

COLOURS = ("red", "green", "blue")

DARK = 1 / 16
"""Mean pixel, of 1 for white. Images that use 12 of 16 bits are darker."""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    verb.add_argument("track", nargs="?", default="mini")
    verb.add_argument(
        "--check", action="store_true", help="read the built images and compare their checksums"
    )
    add_set(verb)


def run(arguments: argparse.Namespace) -> None:
    """Fetches, verifies and builds a track's images, and prints what they are."""
    found = read_params(arguments)
    if arguments.check:
        from benchmark.data.load import check

        manifest = check(data_folder(arguments.root, found.track))
        print(f"{manifest.track}: all images are as they were built; sha256 {manifest.sha256}")
        return
    from benchmark.data.build import build

    manifest = build(
        found.track, found.data.source, found.data.options, found.data.splits.model_dump(),
        found.data.seed, data_folder(arguments.root, found.track),
        arguments.root / "data" / "downloads",
    )  # fmt: skip
    remember(arguments.root, found, manifest.sha256)
    for line in described(manifest):
        print(line)


def described(manifest: Manifest) -> Iterator[str]:
    """Lines for a person: images by split and class, and what in them is unusual."""
    known = {
        name: manifest.splits[name] for name in (*NAMES, UNLABELLED) if name in manifest.splits
    }
    counts = ", ".join(f"{name} {part.count}" for name, part in known.items())
    splits = {name: manifest.of(name) for name in NAMES}
    yield f"{manifest.track}: {counts}; sha256 {manifest.sha256}"
    # The accuracy of always answering with the largest class.
    shares = [max(part.values()) / sum(part.values()) for part in splits.values()]
    yield from _aligned(
        [
            ["class", *splits],
            *([c, *(str(part[c]) for part in splits.values())] for c in manifest.classes),
            ["share of the largest class", *(f"{share:.1%}" for share in shares)],
        ]
    )
    for channel, std in enumerate(manifest.std):
        if std == 0:
            name = f" ({COLOURS[channel]})" if len(manifest.std) == len(COLOURS) else ""
            yield (
                f"channel {channel}{name} is constant in the training split: it is divided by 1 "
                "instead of its standard deviation of 0"
            )
    if max(manifest.mean) < DARK:
        yield (
            f"images are almost black: their mean is {max(manifest.mean):.1%} of white; images that use "
            "few of 16 bits keep few grey levels: stretch them before"
        )
    if manifest.enlarged:
        _, height, width = manifest.shape
        yield f"images enlarged to {height}×{width} pixels: {manifest.enlarged}"
    if manifest.unreadable:
        yield f"unreadable files left out: {manifest.unreadable}"
    if manifest.ignored:
        yield f"ignored files: {listed(manifest.ignored)}"
    if found := manifest.copies:
        yield f"exact copies in the source: {found.in_source}"
        yield f"  within splits: {_counts(found.within)}"
        yield f"  across splits: {_counts(found.across)}"
        yield f"different images in several classes: {found.in_several_classes}"


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {number}" for key, number in numbers.items())


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join([f"{first:{widths[0]}}", *cells])
