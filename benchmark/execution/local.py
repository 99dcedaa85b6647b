"""Many cells at once: worker processes of one machine, each training one cell at a time."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from benchmark.core import determinism
from benchmark.core.errors import UserError
from benchmark.core.system import cores
from benchmark.data.manifest import Storage
from benchmark.execution import worker
from benchmark.execution.progress import Bars, starting
from benchmark.planning.cell import OUT_OF_MEMORY, Task
from benchmark.planning.images import check_transfer
from benchmark.results import published
from benchmark.results.records import Record, RunLog, Store

if TYPE_CHECKING:  # Windows has no fork server
    from multiprocessing.context import ForkServerContext, SpawnContext

LOADED = ["timm", "scipy.stats"]
"""Modules that take seconds to import, torch among them. sklearn is left out: its import starts a
thread, and a process with threads cannot be forked safely."""

PATIENCE = 30.0
"""Seconds that workers get to save their checkpoints before they are killed."""


class Stopped(Exception):
    """Ctrl-C or a termination signal; `lines` state what was saved of each running cell."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        super().__init__()
        self.lines = lines


@dataclass
class Summary:
    """The outcome of the cells that were asked for."""

    found: int = 0
    """Already in the store."""
    trained: int = 0
    crashed: list[str] = field(default_factory=list)
    """One line for each cell whose training ended in an error, with the cause."""
    records: dict[str, Record] = field(default_factory=dict)
    """The last record of every cell that was asked for, by fingerprint."""


class _Signals:
    """Remembers a signal to stop, instead of stopping at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            print(
                f"\nstopping: workers get {PATIENCE:.0f} s to end their step and save …",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        self.asked = True

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Ignores Ctrl-C while a process is started, which inherits this.

        A terminal's Ctrl-C reaches every process of the group; workers get their signal from the parent.
        """
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)


@dataclass
class _Slot:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    step: int = 0
    """The last step that the worker reported."""


def train_missing(
    tasks: Sequence[Task],
    store: Store,
    data: Path,
    jobs: int | None,
    device: str = "auto",
    root: Path | None = None,
    retry: bool = False,
    states: bool = False,
    storage: Storage = "auto",
) -> Summary:
    """Trains every task that the store has no finished record of, `jobs` at a time.

    The default of `jobs` is the number of CPU cores, or 1 on a GPU. `data` is the folder of the built
    dataset. With the `root` of a project, its published records are adopted if the environment that made
    them is the one of this machine. `storage` is where the images are kept. With `retry`, cells that ran
    out of memory are trained again, and with `states` those whose final state is not stored. Raises
    UserError before any training if a cell cannot be built, and Stopped on a signal, after the workers
    have saved their state.
    """
    wanted = {task.fingerprint: task for task in tasks}
    summary = Summary(records=store.read(tasks))

    def counts(task: Task, entry: Record | None) -> bool:
        if entry is None or not entry.is_final or (retry and entry.status == OUT_OF_MEMORY):
            return False
        kept = entry.status != "done" or task.cell.config.training is None
        return not states or kept or store.trained(task.training_key).is_file()

    def lacking() -> list[Task]:
        missing = [t for key, t in wanted.items() if not counts(t, summary.records.get(key))]
        summary.found = len(wanted) - len(missing)
        return missing

    missing = lacking()
    if not missing:
        return summary
    for task in missing:
        check_transfer(data, task.cell.config.evaluation.transfer)
    determinism.prepare()
    with _Signals() as signals:
        context = _context(signals)
        with starting():
            environment, loaded = _check(context, signals, missing, data, device)
        for line in loaded:
            print(line, file=sys.stderr)
        for entry in published.finished(missing, root) if root else ():
            if entry.environment == environment and counts(wanted[entry.fingerprint], entry):
                store.put(entry, None)
                summary.records[entry.fingerprint] = entry
        missing = lacking()
        if not missing:
            return summary
        jobs = jobs or (cores() if environment["device"] == "cpu" else 1)
        pool = _Pool(context, signals, store, data, min(jobs, len(missing)), device, storage)
        with Bars(total=len(wanted), done=summary.found, slots=len(pool.slots)) as bars:
            pool.run(missing, bars, summary)
    summary.records |= store.read(missing)
    return summary


def _context(signals: _Signals) -> SpawnContext | ForkServerContext:
    """How workers start: on Linux they are forked from one process that has imported `LOADED`.

    Elsewhere each worker imports them: macOS's libraries do not survive a fork, and Windows has no fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with signals.held_back():
        forkserver.ensure_running()
    return context


def _started(
    context: SpawnContext | ForkServerContext,
    signals: _Signals,
    target: Callable[..., None],
    *arguments: Any,
) -> tuple[BaseProcess, Connection]:
    """A process that runs `target` with a pipe and the arguments, and this end of the pipe."""
    ours, theirs = context.Pipe()
    given = (dict(os.environ), target, theirs, *arguments)
    process = context.Process(target=worker.begin, args=given)
    # A forked process inherits from the fork server that Ctrl-C is ignored. The first start waits for
    # the imports of the server: Ctrl-C must reach this process meanwhile.
    forked = context.get_start_method() == "forkserver"
    try:
        with contextlib.nullcontext() if forked else signals.held_back():
            process.start()
    except (EOFError, OSError):
        # A termination of the whole process group ends the fork server.
        if signals.asked:
            raise Stopped from None
        raise
    theirs.close()
    return process, ours


def _check(
    context: SpawnContext | ForkServerContext,
    signals: _Signals,
    tasks: Sequence[Task],
    data: Path,
    device: str,
) -> tuple[dict[str, Any], list[str]]:
    """Refuses cells that cannot be built; see `worker.check` for what it returns.

    It runs in a process of its own, since this one never loads torch.
    """
    distinct = {}
    for task in tasks:
        config = task.cell.config
        training = config.training
        shape: tuple[Any, ...] = (config.image_size,)
        if training:
            shape += (
                training.batch_size, training.view_batching, training.teacher, training.sizes,
            )  # fmt: skip
        shape += (config.evaluation.finetune,)
        key = shape, config.method, config.backbone, config.norms, task.cell.weights
        distinct[str(key)] = task.cell
    process, ours = _started(context, signals, worker.check, list(distinct.values()), data, device)
    try:
        while not ours.poll(0.2):
            if signals.asked:
                process.terminate()
                raise Stopped
        environment, refusal, loaded = ours.recv()
    except EOFError:
        if signals.asked:
            raise Stopped from None
        raise RuntimeError("the check of the networks died; its error is above") from None
    finally:
        process.join()
    if refusal:
        raise UserError(refusal)
    return dict(environment), loaded


class _Pool:
    """Worker processes and the task of each."""

    def __init__(
        self,
        context: SpawnContext | ForkServerContext,
        signals: _Signals,
        store: Store,
        data: Path,
        jobs: int,
        device: str,
        storage: Storage,
    ) -> None:
        self.context, self.signals, self.store, self.data = context, signals, store, data
        self.device, self.storage = device, storage
        self.stopping = False
        self.slots = [self._start() for _ in range(max(1, jobs))]

    def _start(self) -> _Slot:
        given = (self.store.folder, self.data, self.device, self.storage)
        return _Slot(*_started(self.context, self.signals, worker.main, *given))

    def run(self, queue: Sequence[Task], bars: Bars, summary: Summary) -> None:
        """Hands out the cells and waits until all are done."""
        waiting = list(queue)
        refusal: str | None = None
        try:
            for slot in self.slots:
                self._hand_out(slot, waiting, bars)
            while any(slot.task for slot in self.slots) and not self.ended():
                bars.tick()
                for place, slot in enumerate(self.slots):
                    refusal = self._listen(place, slot, waiting, bars, summary) or refusal
                if refusal:
                    self.stopping = True
        finally:
            self._end()
        if refusal:
            raise UserError(refusal)
        if self.ended():
            raise Stopped([self._kept(slot) for slot in self.slots if slot.task])

    def ended(self) -> bool:
        """Whether no more cells are to be handed out."""
        return self.stopping or self.signals.asked

    def _hand_out(self, slot: _Slot, waiting: list[Task], bars: Bars) -> None:
        slot.task, slot.step = (waiting.pop(0) if waiting else None), 0
        cell = slot.task.cell if slot.task else None
        if slot.task:
            slot.pipe.send(slot.task)
        trained = cell is not None and cell.config.training is not None
        bars.start(self.slots.index(slot), cell.label if cell else "", trained)

    def _listen(
        self,
        place: int,
        slot: _Slot,
        waiting: list[Task],
        bars: Bars,
        summary: Summary,
    ) -> str | None:
        """Handles one message of a worker; returns the line of a refusal."""
        task = slot.task
        if task is None:
            return None
        cell = task.cell
        # Waits on the process too: a killed worker closes its pipe without a message.
        wait([slot.pipe, slot.process.sentinel], timeout=0.25 / len(self.slots))
        try:
            message = slot.pipe.recv() if slot.pipe.poll() else None
        except (EOFError, OSError):
            message = ("lost",)
        if message is None:
            return None
        kind = message[0]
        if kind == "step":
            slot.step = message[1]
            bars.step(place, *message[1:])
            return None
        if kind == "refused":
            slot.task = None
            return str(message[1])
        if kind == "stopped":
            self.stopping = True
            return None
        if kind == "lost":
            if self.ended():
                return None
            slot.process.join(PATIENCE)
            cause = f"the worker died ({_exit(slot.process.exitcode)})"
            self.store.put(Record.of_crash(task, {}, cause), RunLog())
            summary.crashed.append(f"{cell.name}: {cause}")
            bars.finish(place, f"{cell.label}: {cause}")
            self.slots[place] = slot = self._start()
        elif kind == "crashed":
            summary.crashed.append(f"{cell.name}: {message[1]}")
            bars.finish(place, f"{cell.label}: crashed: {message[1]}")
        else:
            summary.trained += 1
            bars.finish(place, f"{cell.label}: {message[1]}")
        self._hand_out(slot, waiting, bars)
        return None

    def _end(self) -> None:
        """Ends the workers: idle ones at once, busy ones after they have saved a checkpoint."""
        for slot in self.slots:
            if slot.task is None:
                try:
                    slot.pipe.send(None)
                except OSError:
                    continue
            else:
                slot.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for slot in self.slots:
            # A dead fork server does not report its children; their ends of the pipes close with them.
            with contextlib.suppress(EOFError, OSError):
                while slot.pipe.poll(max(0.0, deadline - time.monotonic())):
                    slot.pipe.recv()
            slot.process.join(max(0.1, deadline - time.monotonic()))
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
            slot.pipe.close()

    def _kept(self, slot: _Slot) -> str:
        """What the store has of the cell of a worker that was stopped."""
        task = slot.task
        assert task is not None
        name, recipe = task.cell.name, task.cell.config.training
        if self.store.record(task.fingerprint):
            return f"{name}: finished"
        if recipe is None:
            return f"{name}: nothing to save; its evaluation starts again"
        judged = task.cell.config.evaluation.judge == "test"
        if judged and self.store.trained(task.training_key).is_file():
            return f"{name}: its training is saved; its evaluation starts again"
        saved = _saved_steps(self.store.checkpoint(task.fingerprint))
        lost = f"; {slot.step - saved} more are lost" if slot.step > saved else ""
        return f"{name}: {saved} of {recipe.steps} steps are saved{lost}"


def _saved_steps(checkpoint: Path) -> int:
    """The steps that a checkpoint has done, 0 without a whole one; this process never loads torch."""
    try:
        with safe_open(checkpoint, "numpy") as file:
            return int(json.loads(file.metadata()["checkpoint"])["step"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return 0


def _exit(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "signal SIGKILL, which the system sends when memory runs out"
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
