"""`benchmark sweep`: tunes learning rates on the validation split."""

from __future__ import annotations

import argparse
import contextlib
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
    methods_of,
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
from benchmark.results.records import Record, store

HELP = "tune the learning rates on the validation split"


class _Lacking(Exception):
    """Trials that this command does not train have no result, so no rate can be chosen."""

    def __init__(self, trials: int) -> None:
        super().__init__()
        self.trials = trials


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    add_experiment(verb)
    verb.add_argument(
        "--method", metavar="M",
        help="only the rates of this method; the table keeps those of others whose trials still fit",
    )  # fmt: skip
    add_machine(verb)
    on_cluster.add_arguments(verb)
    add_retry(verb)


@trains
def run(arguments: argparse.Namespace) -> None:
    """Tunes learning rates and writes the table.

    With `--method` the table has the rows of that method, and of each other method and backbone whose
    trials, as the params now ask for them, all have a result. So no table mixes two protocols. A shard
    writes no table while trials of other shards have no result. Raises CheckFailed, and writes no
    table, if a trial crashed or a part of a row's ran out of memory.
    """
    shard = shard_of(arguments)
    found = read_params(arguments)
    experiment = arguments.experiment
    rows = plan.rows(found, experiment)
    trained = [row for row in rows if plan.is_trained(found, row.method)]
    # Refuses params that no training run could use, also where nothing is tuned.
    chosen(
        arguments,
        found,
        {plan.tuned_row(found, row): plan.default_setting(found, row) for row in trained},
    )
    dataset = dataset_checksum(arguments.root, found)
    say_overrides(found)
    target = rate_table.path(arguments.root, found.track, experiment, found.overrides)
    every = rate_table.known(arguments.root, found.track)
    known = {
        fingerprint: result
        for fingerprint, result in every.items()
        if not (arguments.retry and result.status == OUT_OF_MEMORY)
    }
    groups = sweeping.groups(found, experiment)
    methods = methods_of(arguments, found)
    # Rates may come from another recipe.
    sources = {plan.tuned_row(found, row).method for row in trained if row.method in methods}
    asked = [group for group in groups if group[0] in sources]
    metric = rate_table.metric(found)

    def measured(records: Mapping[str, Record]) -> dict[str, rate_table.Result]:
        return {
            key: rate_table.Result(key, entry.status, entry.result.metrics.get(metric))
            for key, entry in records.items()
        }

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
                raise _Lacking(len(others))
        whole = known | measured(records)
        return {task.cell.label: whole[task.fingerprint] for task in trials}

    def there(cells: Sequence[Cell]) -> Mapping[str, rate_table.Result]:
        """The results of trials that earlier commands trained."""
        trials = tasks(cells, dataset)
        untried = [task for task in trials if task.fingerprint not in every]
        records = store(arguments.root).read(untried)
        if left := lacking(untried, records):
            raise _Lacking(len(left))
        whole = every | measured(records)
        return {task.cell.label: whole[task.fingerprint] for task in trials}

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    try:
        tuned = sweeping.tune(found, experiment, results, say, asked)
    except _Lacking as error:
        say(
            f"no table yet: {counted(error.trials, 'trial')} of other shards without a result; when all "
            "shards are done, run them again, or the same command without --shard, to go on"
        )
        return
    for row in tuned:
        if short := _short(row):
            raise CheckFailed(
                f"{short} of {len(row.trials)} trials of {row.row} ran out of memory, and without "
                "them another rate would be chosen: `--retry` trains them again, with a lower `--jobs` "
                "if need be"
            )
    found_rows = {group: [row for row in tuned if row.group == group] for group in asked}
    # Two commands that tune a method each would otherwise lose one another's rows.
    with store(arguments.root).lock("rates"):
        for group in groups:
            if group in asked:
                continue
            with contextlib.suppress(_Lacking):
                others = sweeping.tune(found, experiment, there, lambda _: None, [group])
                if not any(map(_short, others)):
                    found_rows[group] = others
        before = {row.group for row in rate_table.rows_of(arguments.root, found, experiment)}
        for group in groups:
            if group in before and group not in found_rows:
                say(f"{target}: left out {' on '.join(group)}, which was tuned with other params")
        table = [row for group in groups for row in found_rows.get(group, ())]
        # Where nothing is tuned, a table of earlier trials stays, so that none of them is lost.
        if table or not target.exists():
            rate_table.write(target, found, experiment, table)
    print(target)


def _short(row: rate_table.TunedRow) -> int:
    """How many trials of a row ran out of memory, if not all of them."""
    count = [trial.status for trial in row.trials].count(OUT_OF_MEMORY)
    return count if count < len(row.trials) else 0
