"""Trains what a verb asks for, and tells what became of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmark.cli.common import jobs
from benchmark.config.schema import Params
from benchmark.planning.cell import Task
from benchmark.planning.images import data_folder
from benchmark.results.records import Record, store


def train_missing(
    arguments: argparse.Namespace,
    found: Params,
    tasks: Sequence[Task],
    published: Callable[[Sequence[Task]], Sequence[Record]] = lambda missing: (),
) -> None:
    """See `execution.local.train_missing`; a signal is a KeyboardInterrupt."""
    from benchmark.execution import local

    try:
        summary = local.train_missing(
            tasks, store(arguments.root), data_folder(arguments.root, found.track),
            jobs(arguments.jobs), arguments.device, published,
        )  # fmt: skip
    except local.Stopped:
        raise KeyboardInterrupt from None
    print(
        f"{summary.trained} trained, {summary.found} found done, {len(summary.crashed)} crashed",
        file=sys.stderr,
    )
    for line in summary.crashed:
        print(f"  crashed: {line}", file=sys.stderr)
