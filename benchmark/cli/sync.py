"""`benchmark sync`: brings MLflow up to date with the records."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.common import add_track
from benchmark.core import canonical_json

HELP = "bring MLflow up to date with the records"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    verb.add_argument("--uri", help="tracking server (default: MLFLOW_TRACKING_URI, else SQLite)")
    verb.add_argument(
        "--stamp",
        type=Path,
        metavar="FILE",
        help="write the checksums of the leaderboard's synced records (for DVC)",
    )
    verb.add_argument("--watch", action="store_true", help="sync after every change until Ctrl-C")


def run(arguments: argparse.Namespace) -> None:
    """Brings MLflow up to date."""
    from benchmark.tracking import sync

    if arguments.watch:
        sync.watch(arguments.root, arguments.track, arguments.uri)
        return
    done = sync.sync(arguments.root, arguments.track, arguments.uri)
    print(done)
    if arguments.stamp:
        # The other experiments' records do not belong to the pipeline whose output this file is.
        own = f"{arguments.track}/leaderboard/"
        stamp = {name: sha256 for name, sha256 in done.records.items() if name.startswith(own)}
        canonical_json.write(arguments.root / arguments.stamp, canonical_json.pretty(stamp))
