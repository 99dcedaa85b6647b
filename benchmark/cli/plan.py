"""`benchmark plan`: lists cells and their state."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from benchmark.cli.common import (
    add_experiment,
    add_set,
    add_track,
    chosen,
    read_params,
    say_overrides,
)
from benchmark.config.overrides import flags
from benchmark.core.errors import UserError
from benchmark.core.wording import counted
from benchmark.planning import plan, rate_table
from benchmark.planning.cell import OUT_OF_MEMORY
from benchmark.planning.images import check_transfer, data_folder, dataset_checksum
from benchmark.results.records import store
from benchmark.results.status import table

HELP = "list the cells, their state and expected cost"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    add_experiment(verb)
    verb.add_argument("--method", metavar="M", help="only the cells of this method")
    verb.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> None:
    """Lists cells and their state."""
    found = read_params(arguments)
    tuned = rate_table.settings(rate_table.rows_of(arguments.root, found, arguments.experiment))
    rows = plan.rows(found, arguments.experiment)
    defaults = {
        row: plan.default_setting(found, row) for row in rows if plan.is_trained(found, row.method)
    }
    cells = chosen(arguments, found, defaults | tuned)
    asked = {cell.row for cell in cells} & set(defaults)
    untuned = {row for row in asked if plan.tuned_row(found, row) not in tuned}
    if found.experiments[arguments.experiment].learning_rates == "default":
        untuned = set()
    try:
        dataset, unbuilt = dataset_checksum(arguments.root, found), ""
    except UserError as error:
        dataset, unbuilt = None, str(error)
    try:
        check_transfer(data_folder(arguments.root, found.track), found.evaluation.transfer)
        transfer = ""
    except UserError as error:
        transfer = str(error)
    entries = table(cells, dataset, untuned, store(arguments.root), arguments.root)
    say_overrides(found)
    if arguments.json:
        print(json.dumps(entries, indent=1))
        return
    width = max(len(entry["cell"]) for entry in entries)
    for entry in entries:
        cost = entry["seconds"]
        minutes = f"  {cost / 60:6.1f} core-minutes" if cost is not None else ""
        print(f"{entry['cell']:{width}}  {entry['state']:13}{minutes}")
    missing = [entry for entry in entries if entry["state"] not in ("done", OUT_OF_MEMORY)]
    known = [entry["seconds"] for entry in missing if entry["seconds"] is not None]
    print(f"{counted(len(entries), 'cell')}, {len(missing)} to train", end="")
    print(f", about {sum(known) / 60:.0f} core-minutes" if known else "")
    stale = Counter(flags(entry["overrides"]) for entry in entries if "overrides" in entry)
    for given, count in stale.items():
        print(f"{counted(count, 'stale record')} published with `{given}`")
    for line in dict.fromkeys((unbuilt, transfer)):
        if line:
            print(line)
    if short := [entry for entry in entries if entry["state"] == OUT_OF_MEMORY]:
        print(f"{len(short)} ran out of memory: `uv run benchmark train --retry` trains them again")
    if untuned:
        trials = found.sweep.learning_rates * len(found.sweep_seeds(arguments.experiment))
        command = plan.sweep_command(
            found.track, arguments.experiment, found.overrides, arguments.method
        )
        print(
            f"{counted(len(untuned), 'row')} without a tuned learning rate, some {trials} trials each: "
            f"`{command}`"
        )
