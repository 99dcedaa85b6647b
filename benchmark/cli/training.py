"""Trains what a verb asks for, and prints how it ended."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmark.cli.common import jobs
from benchmark.config.schema import Params
from benchmark.core.errors import CheckFailed
from benchmark.planning.cell import Task
from benchmark.planning.images import data_folder
from benchmark.results.records import Record, Store, store

NAMED = 3
"""Crashed cells that the last line names; there is a line above it for each."""


def train_missing(
    arguments: argparse.Namespace,
    found: Params,
    tasks: Sequence[Task],
    published: Callable[[Sequence[Task]], Sequence[Record]] = lambda missing: (),
) -> None:
    """See `execution.local.train_missing`; on a signal prints what was saved: KeyboardInterrupt."""
    from benchmark.execution import local

    try:
        summary = local.train_missing(
            tasks, store(arguments.root), data_folder(arguments.root, found.track),
            jobs(arguments.jobs), arguments.device, published, arguments.retry,
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


def refuse_crashes(tasks: Sequence[Task], kept: Store) -> None:
    """Raises CheckFailed if the last training of any of the cells crashed."""
    crashed = []
    for task in tasks:
        entry = kept.last(task.fingerprint)
        if entry is not None and not entry.is_final:
            crashed.append(task.cell)
    if crashed:
        names = ", ".join(cell.name for cell in crashed[:NAMED])
        more = f" and {len(crashed) - NAMED} more" if len(crashed) > NAMED else ""
        raise CheckFailed(
            f"{len(crashed)} of {len(tasks)} cells crashed: {names}{more}; "
            "the same command trains them again"
        )
