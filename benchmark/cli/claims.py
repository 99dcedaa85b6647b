"""`benchmark claims`: judges every claim and writes the verdicts with their evidence."""

from __future__ import annotations

import argparse

from benchmark.cli.common import add_set, add_track, read_judged

HELP = "judge the claims by the records"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)


def run(arguments: argparse.Namespace) -> None:
    """Judges every claim and writes the verdicts with their evidence."""
    from benchmark.report.claims.write import write

    found = read_judged(arguments)
    for path in write(arguments.root, found.track, found):
        print(path)
