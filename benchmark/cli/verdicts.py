"""`benchmark verdicts`: compares the verdicts of all tracks and writes what to believe."""

from __future__ import annotations

import argparse

HELP = "compare the tracks' verdicts and write what to believe"


def run(arguments: argparse.Namespace) -> None:
    """Writes the pages from every track's `claims.json`."""
    from benchmark.report.claims.across import write

    for path in write(arguments.root):
        print(path)
