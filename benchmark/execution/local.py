"""Many cells at once: worker processes of one machine, each training one cell at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from benchmark.core.errors import UserError
from benchmark.core.system import cores
from benchmark.execution import worker
from benchmark.execution.missing import Summary, Work, kept
from benchmark.execution.processes import PATIENCE, Stopped, ending
from benchmark.execution.progress import Bars
from benchmark.planning.cell import Task
from benchmark.results.records import Record, RunLog


@dataclass
class _Slot:
    process: BaseProcess
    pipe: Connection
    task: Task | None = None
    step: int = 0
    """The last step that the worker reported."""


def workers(jobs: int | None = None) -> Callable[[Work], Pool]:
    """The way of running cells in at most `jobs` worker processes of this machine.

    By default one for each CPU core, or one on a GPU.
    """

    def start(work: Work) -> Pool:
        default = 1 if work.gpus else cores()
        return Pool(work, min(jobs or default, work.cells))

    return start


class Pool:
    """Worker processes and the task of each."""

    def __init__(self, work: Work, workers: int) -> None:
        self.work, self.signals = work, work.processes.signals
        self.stopping = False
        self.workers = [self._start() for _ in range(workers)]

    @property
    def slots(self) -> int:
        """See `missing.Way`."""
        return len(self.workers)

    def _start(self) -> _Slot:
        work = self.work
        given = (work.store.folder, work.data, work.device, work.storage)
        return _Slot(*work.processes.start(worker.main, *given))

    def run(self, queue: Sequence[Task], bars: Bars, summary: Summary) -> None:
        """See `missing.Way`: hands out the cells and waits until all are done."""
        waiting = list(queue)
        refusal: str | None = None
        try:
            for slot in self.workers:
                self._hand_out(slot, waiting, bars)
            while any(slot.task for slot in self.workers) and not self.ended():
                bars.tick()
                for place, slot in enumerate(self.workers):
                    refusal = self._listen(place, slot, waiting, bars, summary) or refusal
                if refusal:
                    self.stopping = True
        finally:
            self._end()
        if refusal:
            raise UserError(refusal)
        if self.ended():
            store = self.work.store
            raise Stopped([kept(s.task, store, s.step) for s in self.workers if s.task])

    def ended(self) -> bool:
        """Whether no more cells are to be handed out."""
        return self.stopping or self.signals.asked

    def _hand_out(self, slot: _Slot, waiting: list[Task], bars: Bars) -> None:
        slot.task, slot.step = (waiting.pop(0) if waiting else None), 0
        cell = slot.task.cell if slot.task else None
        if slot.task:
            slot.pipe.send(slot.task)
        trained = cell is not None and cell.config.training is not None
        bars.start(self.workers.index(slot), cell.label if cell else "", trained)

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
        wait([slot.pipe, slot.process.sentinel], timeout=0.25 / len(self.workers))
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
            cause = f"the worker died ({ending(slot.process.exitcode)})"
            self.work.store.put(Record.of_crash(task, {}, cause), RunLog())
            summary.crashed.append(f"{cell.name}: {cause}")
            bars.finish(place, f"{cell.label}: {cause}")
            self.workers[place] = slot = self._start()
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
        for slot in self.workers:
            if slot.task is None:
                try:
                    slot.pipe.send(None)
                except OSError:
                    continue
            else:
                slot.process.terminate()
        deadline = time.monotonic() + PATIENCE
        for slot in self.workers:
            # A dead fork server does not report its children; their ends of the pipes close with them.
            with contextlib.suppress(EOFError, OSError):
                while slot.pipe.poll(max(0.0, deadline - time.monotonic())):
                    slot.pipe.recv()
            slot.process.join(max(0.1, deadline - time.monotonic()))
            if slot.process.is_alive():
                slot.process.kill()
                slot.process.join()
            slot.pipe.close()
