"""`benchmark train`: trains what is missing and publishes the records of whole methods."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import fmean

from benchmark.cli import on_cluster
from benchmark.cli.common import (
    add_experiment,
    add_machine,
    add_retry,
    add_set,
    add_track,
    lacking,
    part,
    planned,
    read_params,
    refuse_crashes,
    say_overrides,
    shard_of,
    train_missing,
    trains,
)
from benchmark.core.wording import counted
from benchmark.planning import rate_table
from benchmark.planning.cell import Row, Task, tasks
from benchmark.planning.images import dataset_checksum
from benchmark.results import origins, published
from benchmark.results.records import Record, store

HELP = "train what is missing and publish the records"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    add_experiment(verb)
    verb.add_argument("--method", metavar="M", help="only the cells of this method")
    verb.add_argument("--cell", action="append", metavar="C", help="only this cell (repeatable)")
    add_machine(verb)
    on_cluster.add_arguments(verb)
    add_retry(verb)
    verb.add_argument(
        "--state", action="store_true",
        help="also train cells again whose final state is not stored, for `export`",
    )  # fmt: skip


@trains
def run(arguments: argparse.Namespace) -> None:
    """Trains what is missing; publishes the records of whole methods.

    A shard publishes only methods whose cells all have a result, and says which do not. Raises
    CheckFailed at the end if a cell crashed, so that no pipeline takes the stage for done.
    """
    shard = shard_of(arguments)
    found = read_params(arguments)
    cells = planned(arguments, found, arguments.cell or ())
    dataset = dataset_checksum(arguments.root, found)
    say_overrides(found)
    # A fresh clone has the published records and an empty store: only what is new is trained.
    wanted = tasks(cells, dataset)
    own = part(shard, wanted)
    kept = store(arguments.root)
    others: list[Task] = []
    if shard.count > 1 and not arguments.cell:  # to know which methods are whole
        keys = {task.fingerprint for task in own}
        left = [task for task in wanted if task.fingerprint not in keys]
        others = lacking(left, kept.read(left))
    records = train_missing(arguments, found, own, others)
    unfinished: list[Task] = []
    if arguments.cell:
        for task in own:
            print(kept.cell_dir(task.fingerprint) / "record.json")
    else:
        if shard.count > 1:
            records = {**kept.read(wanted), **records}
            unfinished = lacking(wanted, records)
        waiting = list(dict.fromkeys(task.cell.method for task in unfinished))
        for method in dict.fromkeys(cell.method for cell in cells):
            if method in waiting:
                continue
            target = published.folder(arguments.root, found.track, arguments.experiment, method)
            of_method = [task for task in wanted if task.cell.method == method]
            published.publish(of_method, records, kept, target, found.overrides)
            origins.publish(arguments.root, of_method, records, kept)
            rows: dict[Row, list[Record]] = {}
            for task in of_method:
                rows.setdefault(task.cell.row, []).append(records[task.fingerprint])
            for row, seeds in rows.items():
                print(f"{row}: {_summary(seeds, rate_table.metric(found))}")
        if unfinished:
            print(
                f"not published: {', '.join(waiting)} ({counted(len(unfinished), 'cell')} without a "
                "result); when all shards are done, the same command without --shard publishes them",
                file=sys.stderr,
            )
    refuse_crashes(own, records)


def _summary(seeds: Sequence[Record], metric: str) -> str:
    """The mean kNN accuracy over the seeds of a row, or their statuses if a seed has none."""
    scores = [entry.result.metrics.get(metric) for entry in seeds]
    known = [score for score in scores if score is not None]
    if len(known) < len(seeds):
        return ", ".join(entry.status for entry in seeds)
    mean = f"kNN {100 * fmean(known):.1f} %"
    return f"{mean}, mean of {len(seeds)} seeds" if len(seeds) > 1 else mean
