"""`--on ADDRESS`: the options of a cluster, for the verbs that train cells."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmark.config.schema import Params
from benchmark.core import determinism
from benchmark.core.errors import UserError

if TYPE_CHECKING:
    from benchmark.execution.cluster import Asked, Cluster

VARIABLE = "BENCHMARK_ON"
"""The address, for pipelines; the option wins."""


def add_arguments(verb: argparse.ArgumentParser) -> None:
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


@contextlib.contextmanager
def chosen(
    arguments: argparse.Namespace, found: Params, jobs: int | None
) -> Iterator[Cluster | None]:
    """The cluster that the command or BENCHMARK_ON names, with the track's resources; or None.

    `jobs` is the most cells at once.

    Raises UserError for options that make no sense together.
    """
    from benchmark.execution.cluster import Cluster

    asked = _asked(arguments, found, jobs)
    with Cluster(asked) if asked else contextlib.nullcontext() as cluster:
        yield cluster


def _asked(arguments: argparse.Namespace, found: Params, jobs: int | None) -> Asked | None:
    address = arguments.on or os.environ.get(VARIABLE)
    if not address:
        for name in ("cores", "gpus", "shared"):
            if (value := getattr(arguments, name)) is not None:
                raise UserError(f"--{name} is {value!r}, and only a cluster takes it: add --on")
        return None
    if getattr(arguments, "group", None):
        raise UserError(
            f"torchrun trains cells here, and --on {address} elsewhere: leave out one of them"
        )
    device = arguments.device
    determinism.check_device(device)
    for option, other in (("--per-gpu", "--gpus 0.5"), ("--devices", "--cores and --gpus")):
        value = getattr(arguments, option.removeprefix("--").replace("-", "_"))
        if value not in (None, "1"):
            raise UserError(f"{option} is {value}, and a cluster does not take it: see {other}")
    from benchmark.execution.cluster import Asked

    own = found.cluster
    cores = own.cores if arguments.cores is None else _amount(arguments.cores, "--cores")
    gpus = own.gpus if arguments.gpus is None else _amount(arguments.gpus, "--gpus")
    if cores <= 0:
        raise UserError(f"--cores is {cores:g}, expected a number above 0")
    if gpus is not None and not 0 <= gpus <= 1:
        raise UserError(f"--gpus is {gpus:g}, expected 0 to 1: a cell trains on one GPU")
    if device == "cuda" and gpus == 0:
        raise UserError("--device is cuda and --gpus is 0: give each cell a GPU or a part of one")
    if device == "cpu" and gpus:
        raise UserError(f"--device is cpu and --gpus is {gpus:g}: leave out one of them")
    shared = arguments.shared or own.shared
    folder = (arguments.root / shared).absolute() if shared else None
    if folder and not folder.is_dir():
        raise UserError(f"--shared is {shared!r}, and there is no such folder")
    return Asked(address, cores, gpus, jobs, folder)


def _amount(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{option} is {text!r}, expected a number")
    return value
