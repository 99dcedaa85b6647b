"""`benchmark sweep`: tunes learning rates on the validation split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmark.cli import on_cluster
from benchmark.cli.common import (
    add_experiment,
    add_machine,
    add_retry,
    add_set,
    add_track,
    chosen,
    lacking,
    part,
    read_params,
    refuse_crashes,
    say_overrides,
    shard_of,
    train_missing,
    trains,
)
from benchmark.core.errors import CheckFailed
from benchmark.core.wording import counted
from benchmark.planning import plan, rate_table
from benchmark.planning import sweep as sweeping
from benchmark.planning.cell import OUT_OF_MEMORY, Cell, tasks
from benchmark.planning.images import dataset_checksum
from benchmark.results.records import store

HELP = "tune the learning rates on the validation split"


class _OthersLack(Exception):
    """Trials of other shards have no result, so no rate can be chosen."""

    def __init__(self, trials: int) -> None:
        super().__init__()
        self.trials = trials


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    add_experiment(verb)
    add_machine(verb)
    on_cluster.add_arguments(verb)
    add_retry(verb)


@trains
def run(arguments: argparse.Namespace) -> None:
    """Tunes learning rates and writes the table.

    A shard writes no table while trials of other shards have no result. Raises CheckFailed, and writes
    no table, if a trial crashed or a part of a row's ran out of memory.
    """
    shard = shard_of(arguments)
    found = read_params(arguments)
    rows = plan.rows(found, arguments.experiment)
    trained = [row for row in rows if plan.is_trained(found, row.method)]
    # Refuses params that no training run could use, also where nothing is tuned.
    chosen(
        arguments,
        found,
        {plan.tuned_row(found, row): plan.default_setting(found, row) for row in trained},
    )
    dataset = dataset_checksum(arguments.root, found)
    say_overrides(found)
    target = rate_table.path(arguments.root, found.track, arguments.experiment, found.overrides)
    known = {
        fingerprint: result
        for fingerprint, result in rate_table.known(arguments.root, found.track).items()
        if not (arguments.retry and result.status == OUT_OF_MEMORY)
    }
    metric = rate_table.metric(found)

    def results(cells: Sequence[Cell]) -> Mapping[str, rate_table.Result]:
        trials = tasks(cells, dataset)
        untried = [task for task in trials if task.fingerprint not in known]
        # The parts are of all trials: a table may be published while other shards run.
        missing = [task for task in part(shard, trials) if task.fingerprint not in known]
        records = train_missing(arguments, found, missing)
        # Without the crashed trials another rate would be chosen.
        refuse_crashes(missing, records)
        if shard.count > 1:
            records = {**store(arguments.root).read(untried), **records}
            if others := lacking(untried, records):
                raise _OthersLack(len(others))
        whole = known | {
            key: rate_table.Result(key, entry.status, entry.result.metrics.get(metric))
            for key, entry in records.items()
        }
        return {task.cell.label: whole[task.fingerprint] for task in trials}

    try:
        table = sweeping.tune(
            found, arguments.experiment, results, lambda line: print(line, file=sys.stderr)
        )
    except _OthersLack as error:
        print(
            f"no table yet: {counted(error.trials, 'trial')} of other shards without a result; when all "
            "shards are done, run them again, or the same command without --shard, to go on",
            file=sys.stderr,
        )
        return
    for tuned in table:
        short = [trial.status for trial in tuned.trials].count(OUT_OF_MEMORY)
        if 0 < short < len(tuned.trials):
            raise CheckFailed(
                f"{short} of {len(tuned.trials)} trials of {tuned.row} ran out of memory, and without "
                "them another rate would be chosen: `--retry` trains them again, with a lower `--jobs` "
                "if need be"
            )
    # Where nothing is tuned, a table of earlier trials stays, so that none of them is lost.
    if table or not target.exists():
        rate_table.write(target, found, arguments.experiment, table)
    print(target)
