"""The process that trains cells: it receives them through a pipe and reports its progress.

Messages to a worker are a task, or None to end it. Messages from it are tuples: ("ready", environment)
or ("unable", cause) once, then ("step", step, steps, loss), ("done", status), ("stopped",), ("refused",
line), ("crashed", cause, traceback). After a crash it ends: a bug may leave anything behind, and after
some errors of CUDA no further call works in the process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from benchmark.core import determinism
from benchmark.core.errors import REFUSALS, UserError, refused
from benchmark.planning.cell import Cell, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.data.manifest import Manifest, Storage
    from benchmark.methods.base import Method
    from benchmark.results.records import Store
    from benchmark.training.loop import Progress

REPORT_SECONDS = 1.0
"""Least time between two reports of progress: reading the loss waits for the device."""


class _Stop:
    """Whether the process must stop: after a signal, or if its parent is gone."""

    def __init__(self) -> None:
        self.asked = False
        self.parent = multiprocessing.parent_process()
        # A terminal's Ctrl-C reaches every process of the group; the parent passes it on as TERM.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __bool__(self) -> bool:
        # Not os.getppid: the parent of a forked worker is the fork server, which outlives the command.
        return self.asked or (self.parent is not None and not self.parent.is_alive())


def begin(environment: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
    """Calls `target` in the environment of the process that started this one.

    The fork server keeps the environment in which it was started.
    """
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


@dataclass(frozen=True)
class Member:
    """The place of a worker among those that train each cell together."""

    rank: int
    size: int
    rendezvous: str
    """See `core.ranks.join`."""


def main(
    pipe: Connection,
    home: Path,
    data: Path,
    device_name: str,
    storage: Storage = "auto",
    sharing: int = 1,
    member: Member | None = None,
) -> None:
    """Trains the tasks that arrive until None arrives, a signal comes, or the parent is gone.

    `sharing` workers have the same device. If several train together, the first decides when to stop.
    """
    stop = _Stop()

    def report(*message: object) -> None:
        # The parent may be gone: then `stop` soon ends the work.
        with contextlib.suppress(OSError):
            pipe.send(message)

    try:
        device, environment = _start(device_name, sharing, member)
    except Exception as error:
        report("unable", str(error) if isinstance(error, UserError) else _cause(error))
        return
    from benchmark.results.records import Store

    store = Store(home)
    report("ready", environment)
    leads = member is None or member.rank == 0
    while not stop:
        try:
            if not pipe.poll(0.5):
                continue
            task: Task | None = pipe.recv()
        except (EOFError, OSError):
            return
        if task is None:
            break
        reported = 0.0

        def progress(step: int, steps: int, loss: Tensor) -> bool:
            nonlocal reported
            if not leads:
                return True
            if time.monotonic() - reported > REPORT_SECONDS or step == steps:
                reported = time.monotonic()
                report("step", step, steps, float(loss))
            return not stop

        message = attempt(task, data, store, device, progress, storage)
        report(*message)
        if message[0] == "crashed":
            return
    if member and not stop:
        from benchmark.core import ranks

        ranks.leave()


def attempt(
    task: Task,
    data: Path,
    store: Store,
    device: torch.device,
    progress: Progress,
    storage: Storage,
) -> tuple[Any, ...]:
    """Runs a cell and returns the message that says how it ended; no crash is stored."""
    from benchmark.execution.cell import run
    from benchmark.training.loop import Interrupted

    try:
        return "done", run(task, data, store, device, progress, storage=storage).status
    except Interrupted:
        return ("stopped",)
    except UserError as error:
        return "refused", str(error)
    except Exception as error:  # any other error fails this cell only
        if isinstance(error, OSError) and error.errno in REFUSALS:
            # A full disk would fail every cell, and the cause could not be stored.
            return "refused", refused(error)
        return "crashed", _cause(error), traceback.format_exc()


def _start(
    device_name: str, sharing: int, member: Member | None
) -> tuple[torch.device, dict[str, Any]]:
    """The device and the environment of a worker, which meets those that it trains with."""
    device = determinism.start(device_name)
    import torch

    from benchmark.data.storage import share_device

    share_device(sharing)
    if device.type == "cuda":
        torch.zeros((), device=device).item()  # fails now if the GPU is lost
    if member:
        from benchmark.core import ranks

        ranks.join(member.rank, member.size, member.rendezvous, device)
    return device, determinism.environment(device, member.size if member else 1)


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def check(pipe: Connection, cells: list[Cell], data: Path, device_name: str, devices: int) -> None:
    """Builds the network of every cell without memory for its weights.

    `devices` train each cell together. Sends this machine's `determinism.environment`, how many GPUs
    cells can use (0 if they run on the CPU), the first refusal or None, and a line for each file of
    initial weights and each way in which a scheme's norms take them.
    """
    determinism.prepare()
    import torch

    from benchmark.data.load import load

    environment: dict[str, Any] = {}
    gpus = 0
    loaded: dict[str, None] = {}
    try:
        device = determinism.start(device_name)
        environment = determinism.environment(device, devices)
        if device.type == "cuda":
            gpus = torch.cuda.device_count()
        # Not the test split: only the final stage of a cell reads that.
        manifest = load(data, ("train", "validation"), "disk").manifest
        for cell in cells:
            if found := _build(cell, manifest).backbone.loaded:
                loaded[f"weights of {cell.backbone} under {cell.scheme}: {found}"] = None
        pipe.send((environment, gpus, None, list(loaded)))
    except UserError as error:
        pipe.send((environment, gpus, str(error), []))


def _build(cell: Cell, manifest: Manifest) -> Method:
    """Builds a cell's network without memory; an error of a plug-in becomes a UserError."""
    import torch

    from benchmark.components import registry
    from benchmark.training import network

    try:
        with torch.device("meta"):
            return network.build(cell, manifest)
    except UserError:
        raise
    except Exception as error:
        if refusal := registry.blamed(cell.components, error):
            raise refusal from error
        raise
