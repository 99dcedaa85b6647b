"""`benchmark provenance`: follows published records back to what made them."""

from __future__ import annotations

import argparse

from benchmark.cli.common import add_experiment, add_track, named, planned, read_params

HELP = "what made a published record: commit, image, machine"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    verb.add_argument("cells", nargs="+", metavar="CELL", help="e.g. simclr-resnet-bn-s0")
    add_experiment(verb)


def run(arguments: argparse.Namespace) -> None:
    """Follows published records back to what made them."""
    from benchmark.results import lineage

    cells = named(planned(arguments, read_params(arguments)), arguments.cells)
    for place, cell in enumerate(cells):
        if place:
            print()
        for line in lineage.lines(arguments.root, cell):
            print(line)
