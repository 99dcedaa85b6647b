"""`benchmark sweep`: tunes learning rates on the validation split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmark.cli.common import (
    add_experiment,
    add_machine,
    add_retry,
    add_track,
    chosen,
    read_params,
    refuse_crashes,
    train_missing,
)
from benchmark.core.errors import CheckFailed
from benchmark.planning import rate_table
from benchmark.planning import sweep as sweeping
from benchmark.planning.cell import OUT_OF_MEMORY, Cell, tasks
from benchmark.planning.images import dataset_checksum
from benchmark.planning.sizes import check_cells

HELP = "tune the learning rates on the validation split"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_experiment(verb)
    add_machine(verb)
    add_retry(verb)


def run(arguments: argparse.Namespace) -> None:
    """Tunes learning rates and writes the table.

    Raises CheckFailed, and writes no table, if a trial crashed or a part of a row's ran out of memory.
    """
    found = read_params(arguments)
    dataset = dataset_checksum(arguments.root, found)
    target = rate_table.path(arguments.root, found.track, arguments.experiment)
    known = {
        fingerprint: result
        for fingerprint, result in rate_table.known(arguments.root, found.track).items()
        if not (arguments.retry and result.status == OUT_OF_MEMORY)
    }
    metric = rate_table.metric(found)
    fingerprints: dict[str, str] = {}

    def results(cells: Sequence[Cell]) -> Mapping[str, rate_table.Result]:
        check_cells(arguments.root, found, cells)
        trials = tasks(cells, dataset)
        fingerprints.update({task.cell.label: task.fingerprint for task in trials})
        missing = [task for task in trials if task.fingerprint not in known]
        records = train_missing(arguments, found, missing)
        # A rate chosen without the crashed trials would be another one.
        refuse_crashes(missing, records)
        made = {
            key: rate_table.Result(entry.status, entry.result.metrics.get(metric))
            for key, entry in records.items()
        }
        return {task.cell.label: (known | made)[task.fingerprint] for task in trials}

    asked = found.experiments.get(arguments.experiment)
    if asked is not None and asked.learning_rates == "default":
        chosen(arguments, found, {})  # refuses wrong params, as a sweep does
        # Nothing to tune; a table of earlier trials stays, so that none of them is lost.
        if not target.exists():
            rate_table.write(target, found, arguments.experiment, [], fingerprints)
        print(target)
        return
    table = sweeping.tune(
        found, arguments.experiment, results, lambda line: print(line, file=sys.stderr)
    )
    for row in table:
        short = [trial["status"] for trial in row["trials"]].count(OUT_OF_MEMORY)
        if 0 < short < len(row["trials"]):
            raise CheckFailed(
                f"{short} of {len(row['trials'])} trials of {row['method']}-{row['backbone']}-"
                f"{row['scheme']} ran out of memory, and a rate chosen from the rest would be "
                "another one: `--retry` trains them again, with a lower `--jobs` if need be"
            )
    rate_table.write(target, found, arguments.experiment, table, fingerprints)
    print(target)
