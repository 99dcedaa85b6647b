"""`benchmark advise`: prints which schemes the records recommend."""

from __future__ import annotations

import argparse

from benchmark.cli.common import add_set, add_track, read_judged

HELP = "print which schemes the records recommend"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    verb.add_argument("--method", required=True, metavar="M", help="a method, or a recipe")
    verb.add_argument("--backbone", required=True, metavar="F", help="e.g. resnet or vit")
    verb.add_argument("--batch", type=int, metavar="N", help="default: the recipe's")


def run(arguments: argparse.Namespace) -> None:
    """Prints which schemes the records recommend."""
    from benchmark.analysis import advice
    from benchmark.results.rows import RecordIndex

    index = RecordIndex(arguments.root, read_judged(arguments))
    lines = advice.advise(index, arguments.method, arguments.backbone, arguments.batch)
    print("\n".join(lines))
