"""What several verbs share: arguments, the cells that they name, and training these."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.config import params
from benchmark.config.overrides import flags
from benchmark.config.schema import Params
from benchmark.config.yaml_file import shown
from benchmark.core.errors import CheckFailed, UserError, unknown
from benchmark.planning import plan, rate_table
from benchmark.planning.cell import Cell, Row, Task
from benchmark.planning.images import check_images, data_folder
from benchmark.planning.sizes import check_cells
from benchmark.results.records import Record, store

if TYPE_CHECKING:
    from benchmark.execution.cluster import Asked

NAMED = 3
"""Crashed cells that the last line names; each also has a line of its own."""


def add_track(verb: argparse.ArgumentParser) -> None:
    """`--track`."""
    verb.add_argument("--track", default="mini", metavar="T", help="default: mini")


def add_set(verb: argparse.ArgumentParser) -> None:
    """`--set`, for every verb that reads params."""
    verb.add_argument(
        "--set", action="append", dest="overrides", default=[], metavar="KEY=VALUE",
        help="replace a value of the track's params (repeatable), e.g. training.batch_size=128",
    )  # fmt: skip


def add_experiment(verb: argparse.ArgumentParser) -> None:
    """`--experiment`."""
    verb.add_argument("--experiment", default="leaderboard", metavar="E")


def add_machine(verb: argparse.ArgumentParser) -> None:
    """`--jobs` and `--device`."""
    verb.add_argument(
        "--jobs", default="auto", metavar="N",
        help="cells trained in parallel (default: one for each CPU core, or one on a GPU)",
    )  # fmt: skip
    verb.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")


def add_cluster(verb: argparse.ArgumentParser) -> None:
    """`--on` and what belongs to it."""
    verb.add_argument(
        "--on", metavar="ADDRESS",
        help="train on a Ray cluster: HOST:PORT of its head, or auto (also BENCHMARK_ON); "
        "--jobs is then the most cells at once",
    )  # fmt: skip
    verb.add_argument("--cores", metavar="N", help="with --on: cores of each cell (default: 1)")
    verb.add_argument(
        "--gpus", metavar="N",
        help="with --on: GPUs of each cell, at most 1, e.g. 0.5 (default: 1 where a node has any)",
    )  # fmt: skip
    verb.add_argument(
        "--shared", metavar="DIR",
        help="with --on: a folder that all machines see, for checkpoints of unfinished cells",
    )  # fmt: skip


def asked_cluster(arguments: argparse.Namespace, found: Params) -> Asked | None:
    """The cluster that the command or BENCHMARK_ON names, with the track's resources; or None."""
    options = {name: getattr(arguments, name, None) for name in ("cores", "gpus", "shared")}
    if not hasattr(arguments, "on"):
        return None
    address = arguments.on or os.environ.get("BENCHMARK_ON")
    if not address:
        for name, value in options.items():
            if value is not None:
                raise UserError(
                    f"--{name} is {value!r}, and only --on takes it: name a cluster too"
                )
        return None
    from benchmark.execution.cluster import Asked

    own = found.cluster
    cores, gpus = _amount(options["cores"], "--cores"), _amount(options["gpus"], "--gpus")
    cores = own.cores if cores is None else cores
    gpus = own.gpus if gpus is None else gpus
    if cores <= 0 or (cores > 1 and cores != int(cores)):
        raise UserError(f"--cores is {cores:g}, expected a share of a core or a whole number")
    if gpus is not None and not 0 <= gpus <= 1:
        raise UserError(f"--gpus is {gpus:g}, expected 0 to 1: a cell trains on one GPU")
    if arguments.device == "cuda" and gpus == 0:
        raise UserError("--device is 'cuda' and --gpus is 0: give each cell a GPU or a part of one")
    if arguments.device == "cpu" and gpus:
        raise UserError(f"--device is 'cpu' and --gpus is {gpus:g}: leave out one of them")
    if arguments.device not in ("auto", "cpu", "cuda"):
        raise unknown("device", arguments.device, ("auto", "cpu", "cuda"))
    shared = options["shared"] or own.shared
    folder = (arguments.root / shared).absolute() if shared else None
    if folder and not folder.is_dir():
        raise UserError(f"--shared is {shared!r}, and there is no such folder")
    return Asked(address, cores, gpus, count(arguments.jobs, "--jobs"), folder)


def _amount(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{option} is {text!r}, expected a number")
    return value


def add_retry(verb: argparse.ArgumentParser) -> None:
    """`--retry`."""
    verb.add_argument(
        "--retry", action="store_true",
        help="also train cells that ran out of memory again, as those that crashed",
    )  # fmt: skip


def read_params(arguments: argparse.Namespace) -> Params:
    """The params of the track that the command names, with the values that it sets."""
    path = params.track_file(arguments.root, arguments.track)
    found = params.read(path, arguments.overrides)
    if found.track != arguments.track:
        raise UserError(f"{shown(path)}: track is {found.track!r}, expected {arguments.track!r}")
    return found


def read_judged(arguments: argparse.Namespace) -> Params:
    """The same for a verb that reads records; UserError if the built images do not match `data`."""
    found = read_params(arguments)
    check_images(arguments.root, found)
    return found


def say_overrides(found: Params) -> None:
    """Prints what the command sets, in one line, if it sets anything."""
    if found.overrides:
        print(f"overridden: {flags(found.overrides)}", file=sys.stderr)


def planned(arguments: argparse.Namespace, found: Params) -> list[Cell]:
    """The cells that the command names, with tuned learning rates where the experiment asks for them."""
    table = rate_table.rows_of(arguments.root, found, arguments.experiment)
    return chosen(arguments, found, rate_table.settings(table))


def chosen(
    arguments: argparse.Namespace, found: Params, rates: Mapping[Row, rate_table.Setting]
) -> list[Cell]:
    """The cells that the command names, with these learning rates."""
    cells = plan.cells(found, arguments.experiment, rates)
    method = getattr(arguments, "method", None)
    if method is not None:
        methods = found.experiments[arguments.experiment].every("methods")
        if method not in methods:
            raise unknown(f"method of experiment {arguments.experiment}", method, methods)
        cells = [cell for cell in cells if cell.method == method]
    check_cells(arguments.root, found, cells)
    return cells


def named(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of these labels or full names, and all seeds of a row's (`simclr-resnet-bn`)."""
    known: dict[str, list[Cell]] = {}
    for cell in cells:
        for label in (cell.label, cell.label.removesuffix(f"-s{cell.seed}")):
            known.setdefault(label, []).append(cell)
            known.setdefault(cell.name.removesuffix(cell.label) + label, []).append(cell)
    found: dict[str, Cell] = {}
    for name in names:
        if name not in known:
            raise unknown("cell", name, [cell.label for cell in cells])
        found |= {cell.label: cell for cell in known[name]}
    return list(found.values())


def count(text: str, option: str) -> int | None:
    """The number that an option asks for, None for `auto`."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise UserError(f"{option} is {text!r}, expected auto or a number from 1")
    return int(text)


def train_missing(
    arguments: argparse.Namespace, found: Params, tasks: Sequence[Task]
) -> Mapping[str, Record]:
    """The last record of every task by fingerprint, see `execution.missing.train_missing`.

    On a signal it prints what was saved and raises KeyboardInterrupt.
    """
    from benchmark.execution import cluster, local, missing, processes

    asked = asked_cluster(arguments, found)
    way: Callable[[missing.Work], missing.Way] = local.workers(count(arguments.jobs, "--jobs"))
    check: missing.Check = missing.check_here
    try:
        with contextlib.ExitStack() as stack:
            if asked:
                on = stack.enter_context(cluster.Cluster(asked))
                way, check = on.way, on.check
            summary = missing.train_missing(
                tasks, store(arguments.root), data_folder(arguments.root, found.track), way,
                arguments.device, arguments.root, arguments.retry,
                getattr(arguments, "state", False), found.storage, check,
            )  # fmt: skip
    except processes.Stopped as stopped:
        for line in stopped.lines:
            print(f"  {line}", file=sys.stderr)
        raise KeyboardInterrupt from None
    print(
        f"{summary.trained} trained, {summary.found} found done, {len(summary.crashed)} crashed",
        file=sys.stderr,
    )
    for line in summary.crashed:
        print(f"  crashed: {line}", file=sys.stderr)
    return summary.records


def refuse_crashes(tasks: Sequence[Task], records: Mapping[str, Record]) -> None:
    """Raises CheckFailed if the last training run of any of the cells crashed."""
    crashed = [task.cell.name for task in tasks if not records[task.fingerprint].is_final]
    if crashed:
        names = ", ".join(crashed[:NAMED])
        more = f" and {len(crashed) - NAMED} more" if len(crashed) > NAMED else ""
        raise CheckFailed(
            f"{len(crashed)} of {len(tasks)} cells crashed: {names}{more}; "
            "the same command trains them again"
        )
