"""Trains the cells that a verb asks for, and prints the outcome."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmark.cli.common import jobs
from benchmark.config.schema import Params
from benchmark.core.errors import CheckFailed
from benchmark.planning.cell import Task
from benchmark.planning.images import data_folder
from benchmark.results.records import Record, store

NAMED = 3
"""Crashed cells that the last line names; each also has a line of its own."""


def train_missing(
    arguments: argparse.Namespace, found: Params, tasks: Sequence[Task]
) -> Mapping[str, Record]:
    """The last record of every task by fingerprint, see `execution.local.train_missing`.

    On a signal it prints what was saved and raises KeyboardInterrupt.
    """
    from benchmark.execution import local

    try:
        summary = local.train_missing(
            tasks, store(arguments.root), data_folder(arguments.root, found.track),
            jobs(arguments.jobs), arguments.device, arguments.root, arguments.retry,
        )  # fmt: skip
    except local.Stopped as stopped:
        for line in stopped.lines:
            print(f"  {line}", file=sys.stderr)
        raise KeyboardInterrupt from None
    print(
        f"{summary.trained} trained, {summary.found} found done, {len(summary.crashed)} crashed",
        file=sys.stderr,
    )
    for line in summary.crashed:
        print(f"  crashed: {line}", file=sys.stderr)
    return summary.records


def refuse_crashes(tasks: Sequence[Task], records: Mapping[str, Record]) -> None:
    """Raises CheckFailed if the last training run of any of the cells crashed."""
    crashed = [task.cell.name for task in tasks if not records[task.fingerprint].is_final]
    if crashed:
        names = ", ".join(crashed[:NAMED])
        more = f" and {len(crashed) - NAMED} more" if len(crashed) > NAMED else ""
        raise CheckFailed(
            f"{len(crashed)} of {len(tasks)} cells crashed: {names}{more}; "
            "the same command trains them again"
        )
