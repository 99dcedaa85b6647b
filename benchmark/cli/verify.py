"""`benchmark verify`: trains cells again from nothing and compares the records."""

from __future__ import annotations

import argparse

from benchmark.cli.common import (
    add_experiment,
    add_machine,
    add_set,
    add_track,
    number,
    part,
    planned,
    read_judged,
    shard_of,
    trains,
    way,
)
from benchmark.core.errors import CheckFailed, UserError
from benchmark.planning.cell import tasks
from benchmark.planning.images import dataset_checksum

HELP = "train cells again from nothing and compare the records"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    verb.add_argument("cells", nargs="*", metavar="CELL", help="e.g. simclr-resnet-bn-s0")
    add_experiment(verb)
    verb.add_argument("--sample", type=int, metavar="N", help="only N cells, chosen by --seed")
    verb.add_argument("--seed", default="0", metavar="TEXT", help="chooses the sample (default: 0)")
    verb.add_argument(
        "--exact", action="store_true", help="fail if a record is only within the tolerance"
    )
    add_machine(verb)


@trains
def run(arguments: argparse.Namespace) -> None:
    """Trains cells again from nothing and compares."""
    from benchmark.execution import verify

    found = read_judged(arguments)
    cells = planned(arguments, found, arguments.cells)
    if arguments.sample is not None and arguments.sample < 1:
        raise UserError(f"--sample is {arguments.sample}, expected a number from 1")
    if arguments.sample:
        cells = verify.sample(cells, arguments.sample, arguments.seed)
    shard = shard_of(arguments)
    if shard.count > 1:
        own = part(shard, tasks(cells, dataset_checksum(arguments.root, found)))
        cells = [task.cell for task in own]
        if not cells:
            return
    devices = number(arguments.devices, "--devices")
    verdicts = verify.verify(
        arguments.root, found, cells, way(arguments), arguments.device, devices
    )
    for entry in verdicts:
        print(f"{entry.cell.label:40} {entry.verdict:16} {entry.detail}")
    accepted = {"identical"} if arguments.exact else {"identical", "within tolerance"}
    if failed := [entry.cell.label for entry in verdicts if entry.verdict not in accepted]:
        raise CheckFailed(f"{len(failed)} of {len(verdicts)} cells differ: {', '.join(failed)}")
