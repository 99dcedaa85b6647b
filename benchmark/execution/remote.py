"""A cell on a node of a Ray cluster: a worker process, as on one machine, and what it tells the driver.

The task that Ray runs trains nothing. It keeps a process of `execution.worker` and passes its messages
on, so bits, signals, crashes and records are those of one machine: Ray's own process has other
environment variables and threads, and dies with a cell that runs out of memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from benchmark.components import plugins
from benchmark.core import determinism
from benchmark.data.manifest import Storage
from benchmark.execution import missing, node, worker
from benchmark.execution.processes import PATIENCE, NotStarted, Processes, Signals, ending
from benchmark.planning.cell import Task
from benchmark.results.records import Record, RunLog, Store

REPORT_SECONDS = 1.0
"""Between two reports to the driver. Their answers say whether to stop."""


@dataclass(frozen=True)
class Place:
    """What all cells of a command need on a node."""

    data: Path
    """The folder of the built dataset, the same on every node."""
    device: str
    storage: Storage
    sharing: int
    """How many cells have the same GPU."""
    shared: Path | None
    """A folder that all nodes see, with the checkpoints of unfinished cells."""
    plugins: str
    """The driver's BENCHMARK_PLUGINS."""
    versions: Mapping[str, str]
    """The driver's, see `node.versions`."""


@dataclass(frozen=True)
class Outcome:
    """How a cell ended on a node."""

    kind: Literal["done", "crashed", "lost", "refused", "stopped"]
    said: str = ""
    """The status of a record, the cause of a crash or the line of a refusal."""
    record: Record | None = None
    run_log: RunLog = field(default_factory=RunLog)
    files: dict[str, bytes] = field(default_factory=dict)
    """What else belongs in the store, by paths in its folder."""


class Mailbox:
    """What running cells have reported, and whether they must stop. An actor on the driver's machine."""

    def __init__(self) -> None:
        self.stopping = False
        self.started: set[int] = set()
        self.steps: dict[int, tuple[int, int, float]] = {}

    def report(self, number: int, step: tuple[int, int, float] | None) -> bool:
        """Takes a cell's last step, or None without a new one; returns whether it must stop."""
        self.started.add(number)
        if step is not None:
            self.steps[number] = step
        return self.stopping

    def take(self) -> dict[int, tuple[int, int, float]]:
        """The last step of every cell that has reported one since the last call."""
        found, self.steps = self.steps, {}
        return found

    def stop(self) -> set[int]:
        """Tells all cells to stop; returns the numbers of those that have started."""
        self.stopping = True
        return self.started


@dataclass
class _Child:
    process: BaseProcess
    pipe: Connection
    home: Path
    environment: Mapping[str, Any] = field(default_factory=dict)


_idle: _Child | None = None
"""The worker process of the last cell, which has loaded everything."""


def check(tasks: Sequence[Task], place: Place) -> tuple[dict[str, Any], int, list[str]]:
    """See `missing.check_here`, on this node."""
    with _no_main(), _or_another():
        return missing.check_here(_processes(place), tasks, place.data, place.device, 1)


def run(number: int, task: Task, place: Place, mailbox: Any) -> Outcome:
    """Trains a cell in a worker process and returns how it ended, with its record and run log."""
    import ray

    # A node that joined the cluster after the driver had looked at all of them.
    if line := node.lacks(place.versions, {str(place.data): task.dataset}, None, ""):
        return Outcome("refused", f"node {ray.util.get_node_ip_address()}: {line}")
    if ray.get(mailbox.report.remote(number, None)):
        return Outcome("stopped")
    child = _child(place)
    outcome = Outcome("lost")
    try:
        child.pipe.send(task)
        outcome = _followed(child, number, task, mailbox)
    finally:
        # A process that has used a GPU holds memory that another cell may need.
        _leave(child, place, keep=outcome.kind == "done" and place.device == "cpu")
    return outcome


def _followed(child: _Child, number: int, task: Task, mailbox: Any) -> Outcome:
    """Passes on the steps of a cell until it ends."""
    import ray

    environment = child.environment
    step: tuple[int, int, float] | None = None
    told, deadline = time.monotonic(), float("inf")
    while True:
        wait([child.pipe, child.process.sentinel], timeout=REPORT_SECONDS)
        try:
            message = child.pipe.recv() if child.pipe.poll() else None
        except (EOFError, OSError):
            child.process.join(PATIENCE)
            stopped = deadline < float("inf")
            cause = f"the worker died ({ending(child.process.exitcode)})"
            return Outcome("stopped") if stopped else Outcome("lost", cause)
        kind, *said = message or ("nothing",)
        if kind == "ready":
            child.environment = environment = said[0]
        elif kind == "step":
            step = said[0], said[1], said[2]
        elif kind == "unable":
            line = f"node {ray.util.get_node_ip_address()}: no worker can start: {said[0]}"
            return Outcome("refused", line)
        elif kind == "refused":
            return Outcome("refused", said[0])
        elif kind == "stopped":
            return Outcome("stopped")
        elif kind == "crashed":
            record = Record.of_crash(task, environment, said[0])
            return Outcome("crashed", said[0], record, RunLog(traceback=said[1]))
        elif kind == "done":
            return _done(said[0], task, Store(child.home))
        now = time.monotonic()
        if now > deadline:
            child.process.kill()
        elif now - told > REPORT_SECONDS:
            told = now
            if ray.get(mailbox.report.remote(number, step)) and deadline == float("inf"):
                child.process.terminate()
                deadline = now + PATIENCE
            step = None


def _done(status: str, task: Task, home: Store) -> Outcome:
    """The outcome of a cell whose worker has stored its record."""
    paths = home.trained(task.training_key), home.trace(task.training_key)
    files = {
        path.relative_to(home.folder).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file()
    }
    key = task.fingerprint
    return Outcome("done", status, home.last(key), home.run_log(key), files)


def _child(place: Place) -> _Child:
    """A worker process: the idle one, or a new one."""
    global _idle
    child, _idle = _idle, None
    if child is not None and child.process.is_alive():
        return child
    home = place.shared or Path(tempfile.mkdtemp(prefix="benchmark-"))
    given = (home, place.data, place.device, place.storage, place.sharing)
    with _no_main(), _or_another():
        return _Child(*_processes(place).start(worker.main, *given), home)


def _leave(child: _Child, place: Place, keep: bool) -> None:
    """Keeps a worker for the next cell, or ends it; a folder of its own is emptied."""
    global _idle
    if keep:
        _idle = child
    else:
        child.process.terminate()
        child.process.join(PATIENCE)
        child.process.kill()
        child.pipe.close()
    if place.shared is None:
        shutil.rmtree(child.home, ignore_errors=True)


def _processes(place: Place) -> Processes:
    _stand_somewhere()
    if place.plugins:
        os.environ[plugins.VARIABLE] = place.plugins
    determinism.prepare()
    return Processes(Signals())


@contextlib.contextmanager
def _or_another() -> Iterator[None]:
    """Ends Ray's process here if it can start no process any more: Ray runs its task in another one.

    Ray kills what a process of its own has started just before that process itself, when a node goes.
    """
    try:
        yield
    except NotStarted:
        traceback.print_exc()
        os._exit(1)


def _stand_somewhere() -> None:
    """Leaves a folder that is gone: new processes are told where this one stands.

    A node keeps the folder that it was started in, which somebody may remove; a network file system may
    also forget it. All paths of a cell are absolute.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir(os.sep)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Hides the program of this process, Ray's, which a new process would import."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
