"""`benchmark train`: trains what is missing and publishes the records of whole methods."""

from __future__ import annotations

import argparse

from benchmark.cli.common import add_experiment, add_machine, add_track, named, planned, read_params
from benchmark.cli.training import train_missing
from benchmark.planning.cell import tasks
from benchmark.planning.images import dataset_checksum
from benchmark.results import origins, published
from benchmark.results.records import store

HELP = "train what is missing and publish the records"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_experiment(verb)
    verb.add_argument("--method", metavar="M", help="only the cells of this method")
    verb.add_argument("--cell", action="append", metavar="C", help="only this cell (repeatable)")
    add_machine(verb)


def run(arguments: argparse.Namespace) -> None:
    """Trains what is missing; publishes the records of whole methods."""
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
            print(kept.of(task.fingerprint) / "record.json")
        return
    for method in dict.fromkeys(cell.method for cell in cells):
        target = published.folder(arguments.root, found.track, arguments.experiment, method)
        of_method = [task for task in wanted if task.cell.method == method]
        published.publish(of_method, kept, target)
        origins.publish(arguments.root, of_method, kept)
