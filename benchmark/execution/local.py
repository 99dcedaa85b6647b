"""Many cells at once: worker processes of one machine, each training one cell at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from benchmark.core import determinism
from benchmark.core.errors import UserError
from benchmark.execution import worker
from benchmark.execution.progress import Bars
from benchmark.planning.cell import Task
from benchmark.results.records import Record, Store

PATIENCE = 30.0
"""Seconds that workers get to save their checkpoints before they are killed."""


class Stopped(Exception):
    """Ctrl-C or a termination signal; everything done so far is saved."""


@dataclass
class Summary:
    """What became of the cells asked for."""

    found: int = 0
    """Already in the store."""
    trained: int = 0
    crashed: list[str] = field(default_factory=list)
    """One line for each cell whose training ended in an error, with the cause."""


class _Signals:
    """Remembers that somebody asked for the end, instead of ending at once."""

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
            print("\nstopping: saving what is under way …", file=sys.stderr, flush=True)
        self.asked = True

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """For starting a process: it inherits that Ctrl-C is ignored, and so never dies of one.

        A terminal's Ctrl-C reaches every process of the group; workers are told by their parent.
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


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_missing(
    tasks: Sequence[Task],
    store: Store,
    data: Path,
    jobs: int | None,
    device: str = "auto",
    published: Callable[[Sequence[Task]], Sequence[Record]] = lambda missing: (),
) -> Summary:
    """Trains every task that the store does not hold, `jobs` at a time.

    Without a number of jobs it is one for each CPU core, and one on a GPU. `data` is the folder of the
    built dataset. `published` gives records of tasks from elsewhere:
    those that an environment like this one made go into the store and count as found. Raises UserError
    before any training if a cell cannot be built, and Stopped, with everything saved, on a signal.
    """
    wanted = {task.fingerprint: task for task in tasks}
    missing = _missing(wanted, store)
    if not missing:
        return Summary(found=len(wanted))
    determinism.prepare()
    context = multiprocessing.get_context("spawn")
    with _Signals() as signals:
        environment = _check(context, signals, missing, data, device)
        for entry in published(missing):
            if entry.environment == environment:
                store.adopt(entry)
        missing = _missing(wanted, store)
        summary = Summary(found=len(wanted) - len(missing))
        if not missing:
            return summary
        jobs = jobs or (cores() if environment["device"] == "cpu" else 1)
        pool = _Pool(context, signals, store, data, min(jobs, len(missing)), device)
        with Bars(total=len(wanted), done=summary.found, slots=len(pool.slots)) as bars:
            pool.run(missing, bars, summary)
    return summary


def _missing(wanted: Mapping[str, Task], store: Store) -> list[Task]:
    return [task for fingerprint, task in wanted.items() if store.record(fingerprint) is None]


def _check(
    context: multiprocessing.context.SpawnContext,
    signals: _Signals,
    tasks: Sequence[Task],
    data: Path,
    device: str,
) -> dict[str, Any]:
    """Refuses what cannot be built, and returns what decides the bits of the trainings.

    In a process of its own: this one never loads torch.
    """
    distinct = {}
    for task in tasks:
        config = task.cell.config
        training = config.training
        shape = (training.batch_size, training.view_batching, training.teacher) if training else ()
        distinct[str((shape, config.method, config.backbone, config.norms))] = task.cell
    ours, theirs = context.Pipe()
    process = context.Process(
        target=worker.check, args=(theirs, list(distinct.values()), data, device)
    )
    with signals.held_back():
        process.start()
    theirs.close()
    try:
        while not ours.poll(0.2):
            if signals.asked:
                process.terminate()
                raise Stopped
        environment, refusal = ours.recv()
    except EOFError:
        raise RuntimeError("the check of the networks died; its error stands above") from None
    finally:
        process.join()
    if refusal:
        raise UserError(refusal)
    return dict(environment)


class _Pool:
    """Worker processes and what each is doing."""

    def __init__(
        self,
        context: multiprocessing.context.SpawnContext,
        signals: _Signals,
        store: Store,
        data: Path,
        jobs: int,
        device: str,
    ) -> None:
        self.context, self.signals, self.store, self.data = context, signals, store, data
        self.device = device
        self.stopping = False
        self.slots = [self._start() for _ in range(max(1, jobs))]

    def _start(self) -> _Slot:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(
            target=worker.main, args=(theirs, self.store.folder, self.data, self.device)
        )
        with self.signals.held_back():
            process.start()
        theirs.close()
        return _Slot(process, ours)

    def run(self, queue: Sequence[Task], bars: Bars, summary: Summary) -> None:
        """Hands out the cells and listens until all are done."""
        waiting = list(queue)
        refusal: str | None = None
        try:
            for slot in self.slots:
                self._hand_out(slot, waiting, bars)
            while any(slot.task for slot in self.slots) and not self.ended():
                for place, slot in enumerate(self.slots):
                    refusal = self._listen(place, slot, waiting, bars, summary) or refusal
                if refusal:
                    self.stopping = True
        finally:
            self._end()
        if refusal:
            raise UserError(refusal)
        if self.ended():
            raise Stopped

    def ended(self) -> bool:
        """Whether no more cells are to be handed out."""
        return self.stopping or self.signals.asked

    def _hand_out(self, slot: _Slot, waiting: list[Task], bars: Bars) -> None:
        slot.task = waiting.pop(0) if waiting else None
        if slot.task:
            slot.pipe.send(slot.task)
        bars.start(self.slots.index(slot), slot.task.cell.label if slot.task else "")

    def _listen(
        self,
        place: int,
        slot: _Slot,
        waiting: list[Task],
        bars: Bars,
        summary: Summary,
    ) -> str | None:
        """Takes what one worker has to say; returns a refusal of the user's input."""
        task = slot.task
        if task is None:
            return None
        cell = task.cell
        # Waiting on the process too: a killed worker closes its pipe without a word.
        wait([slot.pipe, slot.process.sentinel], timeout=0.25 / len(self.slots))
        try:
            message = slot.pipe.recv() if slot.pipe.poll() else None
        except (EOFError, OSError):
            message = ("lost",)
        if message is None:
            return None
        kind = message[0]
        if kind == "step":
            bars.step(place, message[1], message[2])
            return None
        if kind == "refused":
            slot.task = None
            return str(message[1])
        if kind == "stopped":
            slot.task = None
            self.stopping = True
            return None
        if kind == "lost":
            if self.ended():
                slot.task = None
                return None
            slot.process.join(PATIENCE)
            cause = f"the worker died ({_exit(slot.process.exitcode)})"
            self.store.put(Record.of_crash(task, {}, cause), {})
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
            slot.process.join(max(0.1, deadline - time.monotonic()))
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
            slot.pipe.close()


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
