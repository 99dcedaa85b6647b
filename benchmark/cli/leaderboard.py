"""`benchmark leaderboard`: rebuilds tables and figures from records."""

from __future__ import annotations

import argparse

from benchmark.cli.common import add_experiment, add_set, add_track, read_judged

HELP = "rebuild the tables from records"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    add_experiment(verb)


def run(arguments: argparse.Namespace) -> None:
    """Rebuilds tables and figures."""
    from benchmark.report.leaderboard.write import write

    for path in write(arguments.root, read_judged(arguments), arguments.experiment):
        print(path)
