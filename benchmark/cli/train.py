"""`benchmark train`: trains what is missing and publishes the records of whole methods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean

from benchmark.cli.common import (
    add_experiment,
    add_machine,
    add_retry,
    add_track,
    named,
    planned,
    read_params,
)
from benchmark.cli.training import refuse_crashes, train_missing
from benchmark.planning import rate_table
from benchmark.planning.cell import Row, Task, tasks
from benchmark.planning.images import dataset_checksum
from benchmark.results import origins, published
from benchmark.results.records import Store, store

HELP = "train what is missing and publish the records"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_experiment(verb)
    verb.add_argument("--method", metavar="M", help="only the cells of this method")
    verb.add_argument("--cell", action="append", metavar="C", help="only this cell (repeatable)")
    add_machine(verb)
    add_retry(verb)


def run(arguments: argparse.Namespace) -> None:
    """Trains what is missing; publishes the records of whole methods.

    Raises CheckFailed at the end if a cell crashed, so that no pipeline takes the stage for done.
    """
    found = read_params(arguments)
    cells = planned(arguments, found)
    if arguments.cell:
        cells = named(cells, arguments.cell)
    dataset = dataset_checksum(arguments.root, found)
    # A fresh clone has the published records and an empty store: only what is new is trained.
    wanted = tasks(cells, dataset)
    train_missing(
        arguments, found, wanted, lambda missing: published.published(missing, arguments.root)
    )
    kept = store(arguments.root)
    if arguments.cell:
        for task in wanted:
            print(kept.cell_dir(task.fingerprint) / "record.json")
    else:
        for method in dict.fromkeys(cell.method for cell in cells):
            target = published.folder(arguments.root, found.track, arguments.experiment, method)
            of_method = [task for task in wanted if task.cell.method == method]
            published.publish(of_method, kept, target)
            origins.publish(arguments.root, of_method, kept)
            for line in _rows(of_method, kept, rate_table.metric(found)):
                print(line)
    refuse_crashes(wanted, kept)


def _rows(tasks: Sequence[Task], kept: Store, metric: str) -> list[str]:
    """A line for each row: the mean kNN accuracy over its seeds, or the statuses if a seed has none."""
    rows: dict[Row, list[Task]] = {}
    for task in tasks:
        rows.setdefault(task.cell.row, []).append(task)
    lines = []
    for row, seeds in rows.items():
        entries = [kept.record(task.fingerprint) for task in seeds]
        found = [entry.result.metrics.get(metric) for entry in entries if entry]
        scores = [score for score in found if score is not None]
        if len(scores) < len(seeds):
            said = ", ".join(entry.status if entry else "crashed" for entry in entries)
        else:
            said = f"kNN {100 * fmean(scores):.1f} %"
            said += f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ""
        lines.append(f"{row}: {said}")
    return lines
