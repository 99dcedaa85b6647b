"""`benchmark new`: writes a track of a user's own images, or a plug-in to fill in."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.parser import Parser
from benchmark.components.registry import FOLDERS

HELP = "write a track of your own images, or a plug-in to fill in"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    kinds = verb.add_subparsers(required=True, metavar="KIND", dest="kind", parser_class=Parser)
    track = kinds.add_parser("track", help="a track of your own images, from the images to a table")
    track.add_argument("name", metavar="NAME", help="of the new folder tracks/NAME")
    track.add_argument(
        "--images", required=True, metavar="DIR",
        help="folder with a folder of images for each class, or with such folders for each of train, "
        "val and test; with --evaluate images without classes",
    )  # fmt: skip
    track.add_argument(
        "--evaluate", metavar="DIR",
        help="folder of class folders that evaluates, if --images has no classes",
    )  # fmt: skip
    track.add_argument(
        "--size", type=int, metavar="N",
        help="side of the images in pixels (default: as they are, at most 64)",
    )  # fmt: skip
    track.add_argument("--track-title", metavar="TEXT", help="title of the table (default: NAME)")
    for kind in FOLDERS:
        plug_in = kinds.add_parser(kind, help=f"a plug-in file ({kind})")
        plug_in.add_argument("name", metavar="NAME", help=f"of the {kind} in params.yaml")
        plug_in.add_argument("--out", type=Path, metavar="FILE", help="the file (default: NAME.py)")


def run(arguments: argparse.Namespace) -> None:
    """Writes the files, and prints what they are and what to run next."""
    # Jinja takes as long to import as `--help` may take.
    from benchmark.scaffold import plug_in, track

    if arguments.kind == "track":
        said = track.write(
            arguments.root, arguments.name, arguments.images, arguments.evaluate, arguments.size,
            arguments.track_title or arguments.name,
        )  # fmt: skip
    else:
        said = plug_in.write(arguments.kind, arguments.name, arguments.out)
    print(said)
