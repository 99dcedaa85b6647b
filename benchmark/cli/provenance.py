"""`benchmark provenance`: shows what made published records."""

from __future__ import annotations

import argparse

from benchmark.cli.common import add_experiment, add_set, add_track, planned, read_params

HELP = "show the commit, image and machine that made a published record"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    verb.add_argument("cells", nargs="+", metavar="CELL", help="e.g. simclr-resnet-bn-s0")
    add_experiment(verb)


def run(arguments: argparse.Namespace) -> None:
    """Shows what made published records."""
    from benchmark.results import lineage

    cells = planned(arguments, read_params(arguments), arguments.cells)
    for place, cell in enumerate(cells):
        if place:
            print()
        for line in lineage.lines(arguments.root, cell):
            print(line)
