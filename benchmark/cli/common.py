"""What several verbs share: arguments, the cells that they name, and training these."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.config import params
from benchmark.config.overrides import flags
from benchmark.config.schema import Params
from benchmark.config.yaml_file import shown
from benchmark.core.errors import CheckFailed, UserError, check_known, unknown
from benchmark.core.wording import DIGITS, clipped, counted, natural
from benchmark.planning import plan, rate_table
from benchmark.planning.cell import Cell, Row, Task
from benchmark.planning.images import check_images, data_folder
from benchmark.planning.shard import Shard
from benchmark.planning.sizes import check_cells
from benchmark.results.records import Record, store

if TYPE_CHECKING:
    from benchmark.execution.missing import Way, Work

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
    """Where and how cells are trained."""
    verb.add_argument(
        "--jobs", default="auto", metavar="N",
        help="most cells trained at once (default: one for each CPU core or GPU)",
    )  # fmt: skip
    verb.add_argument(
        "--per-gpu", metavar="K", help="cells trained at once on each GPU (default: 1)"
    )
    verb.add_argument(
        "--devices", default="1", metavar="N",
        help="GPUs, or CPU cores, that train each cell together (default: 1)",
    )  # fmt: skip
    verb.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    verb.add_argument(
        "--shard", metavar="I/N",
        help="only the I-th of N parts of the cells, e.g. 2/8: for job arrays",
    )  # fmt: skip


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


def planned(arguments: argparse.Namespace, found: Params, names: Sequence[str] = ()) -> list[Cell]:
    """The cells that the command names, with tuned learning rates where the experiment asks for them.

    With `names` only these, see `named`. Only the methods of these cells need a tuned rate.
    """
    table = rate_table.rows_of(arguments.root, found, arguments.experiment)
    cells = chosen(arguments, found, rate_table.settings(table), names)
    return named(cells, names) if names else cells


def chosen(
    arguments: argparse.Namespace,
    found: Params,
    rates: Mapping[Row, rate_table.Setting],
    names: Sequence[str] = (),
) -> list[Cell]:
    """The same with these learning rates, of the whole methods of the cells in `names`."""
    methods = methods_of(arguments, found)
    labels = [name.rpartition("/")[2] for name in names]
    own = [m for m in methods if any(label.startswith(f"{m}-") for label in labels)]
    cells = plan.cells(found, arguments.experiment, rates, own or methods)
    check_cells(arguments.root, found, cells)
    return cells


def methods_of(arguments: argparse.Namespace, found: Params) -> Sequence[str]:
    """The methods of the experiment, or the one that the command names; UserError if it is unknown."""
    check_known("experiment", [arguments.experiment], found.experiments)
    methods = found.experiments[arguments.experiment].every("methods")
    method = getattr(arguments, "method", None)
    if method is None:
        return methods
    if method not in methods:
        raise unknown(f"method of experiment {arguments.experiment}", method, methods)
    return [method]


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
    return None if text == "auto" else number(text, option, "auto or a number from 1")


def number(text: str, option: str, expected: str = "a number from 1") -> int:
    """The number, from 1, that an option asks for."""
    if not (value := natural(text)):
        most = f" of at most {DIGITS} digits" if len(text) > DIGITS else ""
        raise UserError(f"{option} is {clipped(text)}, expected {expected}{most}")
    return value


def trains(run: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Makes a verb that trains usable under torchrun: rank 0 runs it, and the others help to train."""

    @functools.wraps(run)
    def together(arguments: argparse.Namespace) -> None:
        from benchmark.execution import launched

        if launched.place() is None:
            run(arguments)
            return
        with launched.Group(arguments.device) as group:
            if not group.leads:
                group.follow(functools.partial(data_folder, arguments.root))
                return
            given = {"--jobs": arguments.jobs != "auto", "--per-gpu": arguments.per_gpu is not None,
                     "--devices": arguments.devices != "1"}  # fmt: skip
            for option in (name for name, is_given in given.items() if is_given):
                raise UserError(f"{option} is for processes that this command starts, not torchrun")
            arguments.devices, arguments.group = str(group.size), group
            run(arguments)

    return together


def way(arguments: argparse.Namespace) -> Callable[[Work], Way]:
    """The way of running cells that the command asks for."""
    from benchmark.execution import local

    if group := getattr(arguments, "group", None):
        return lambda work: group.way(work)
    per_gpu = arguments.per_gpu
    return local.workers(
        count(arguments.jobs, "--jobs"),
        None if per_gpu is None else number(per_gpu, "--per-gpu"),
    )


def train_missing(
    arguments: argparse.Namespace,
    found: Params,
    tasks: Sequence[Task],
    others: Sequence[Task] = (),
) -> Mapping[str, Record]:
    """The last record of every task by fingerprint, see `execution.missing.train_missing`.

    Those of `others`, which other commands train, are there if they are published. On a signal it prints
    what was saved and raises KeyboardInterrupt.
    """
    from benchmark.cli import on_cluster
    from benchmark.execution import missing, processes

    devices = number(arguments.devices, "--devices")
    jobs = count(arguments.jobs, "--jobs")
    try:
        with on_cluster.chosen(arguments, found, jobs) as cluster:
            summary = missing.train_missing(
                tasks, store(arguments.root), data_folder(arguments.root, found.track),
                cluster.way if cluster else way(arguments), arguments.device, arguments.root,
                arguments.retry, getattr(arguments, "state", False), found.storage, devices,
                cluster.check if cluster else missing.check_here, others,
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


def shard_of(arguments: argparse.Namespace) -> Shard:
    """The part of the cells that the command trains: by default all."""
    return Shard() if arguments.shard is None else Shard.parse(arguments.shard)


def part(shard: Shard, tasks: Sequence[Task]) -> list[Task]:
    """The tasks of a shard; prints what it leaves to the others."""
    own = shard.of(tasks)
    if shard.count > 1:
        print(
            f"shard {shard.place} of {shard.count}: {len(own)} of {counted(len(tasks), 'cell')}; "
            f"{len(tasks) - len(own)} are left to the other shards",
            file=sys.stderr,
        )
    return own


def lacking(tasks: Sequence[Task], records: Mapping[str, Record]) -> list[Task]:
    """The tasks that have no result among records by fingerprint."""
    found = {key for key, entry in records.items() if entry.is_final}
    return [task for task in tasks if task.fingerprint not in found]


def refuse_crashes(tasks: Sequence[Task], records: Mapping[str, Record]) -> None:
    """Raises CheckFailed if the last training run of any of the cells crashed."""
    crashed = [task.cell.name for task in lacking(tasks, records)]
    if crashed:
        names = ", ".join(crashed[:NAMED])
        more = f" and {len(crashed) - NAMED} more" if len(crashed) > NAMED else ""
        raise CheckFailed(
            f"{len(crashed)} of {len(tasks)} cells crashed: {names}{more}; "
            "the same command trains them again"
        )
