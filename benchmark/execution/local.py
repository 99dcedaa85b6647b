"""Many cells at once: worker processes of one machine, each training one cell at a time.

A slot is what trains a cell: a worker, or several that train it together on a device each.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from benchmark.core.errors import UserError
from benchmark.core.system import cores
from benchmark.core.wording import counted
from benchmark.execution import worker
from benchmark.execution.missing import Summary, Work, kept
from benchmark.execution.processes import PATIENCE, Stopped, ending
from benchmark.execution.progress import Bars
from benchmark.planning.cell import OUT_OF_MEMORY, Task
from benchmark.results.records import Record, Result, RunLog

VISIBLE = "CUDA_VISIBLE_DEVICES"


def workers(jobs: int | None = None, per_gpu: int | None = None) -> Callable[[Work], Pool]:
    """The way of running cells on this machine, at most `jobs` at once.

    By default a cell for each CPU core, or `per_gpu` (1) for each GPU; fewer if each takes several. The
    result raises UserError if the machine has fewer devices than a cell takes.
    """

    def start(work: Work) -> Pool:
        devices, kind = (work.gpus, "GPU") if work.gpus else (cores(), "CPU core")
        if work.devices > devices:
            has = f"this machine has {counted(devices, kind)}"
            raise UserError(f"--devices is {work.devices}, expected at most {devices}: {has}")
        if per_gpu and not work.gpus:
            raise UserError(f"--per-gpu is {per_gpu}, but cells run on the CPU: expected --jobs")
        most = devices // work.devices * (per_gpu or 1)
        # More workers than cores are the user's choice; of a GPU's memory each needs its share.
        asked = min(jobs or most, most) if work.gpus else jobs or most
        return Pool(work, min(asked, work.cells))

    return start


def visible(gpus: int, outer: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES must be for a process to see one GPU alone, for each of `gpus`.

    `outer` is the variable's present value: the numbers or UUIDs of the GPUs that may be used.
    """
    return (
        [name.strip() for name in outer.split(",")][:gpus]
        if outer
        else [str(n) for n in range(gpus)]
    )


@dataclass
class _Slot:
    workers: list[tuple[BaseProcess, Connection]] = field(default_factory=list)
    """By rank; none before the first cell and after a crash."""
    task: Task | None = None
    step: int = 0
    """The last step that the first worker reported."""
    environment: Mapping[str, Any] | None = None
    """None until the workers are ready."""
    done: dict[int, str] = field(default_factory=dict)
    """The status that each worker came to, by rank."""
    usable: bool = True

    def heard(self) -> list[tuple[int, tuple[Any, ...]]]:
        """One message of each worker that has one, with its rank.

        A worker that died comes first: it explains what the others say.
        """
        found = [
            (rank, message)
            for rank, (_, pipe) in enumerate(self.workers)
            if (message := _received(pipe))
        ]
        return sorted(found, key=lambda one: one[1] != LOST)

    def death(self, rank: int) -> str:
        """How a worker died, in words."""
        process, _ = self.workers[rank]
        process.join(PATIENCE)
        which = f"worker {rank} of the cell" if len(self.workers) > 1 else "the worker"
        return f"{which} died ({ending(process.exitcode)})"

    def kill(self) -> None:
        """Ends all workers at once."""
        for process, _ in self.workers:
            process.kill()
        for process, pipe in self.workers:
            process.join()
            pipe.close()
        self.workers.clear()


LOST = ("lost",)


def _received(pipe: Connection) -> tuple[Any, ...] | None:
    try:
        return tuple(pipe.recv()) if pipe.poll() else None
    except (EOFError, OSError):
        return LOST


class Pool:
    """Slots and the task of each; see `missing.Way`."""

    def __init__(self, work: Work, count: int) -> None:
        self.work, self.signals = work, work.processes.signals
        self.gpus = visible(work.gpus, os.environ.get(VISIBLE))
        sets = max(1, len(self.gpus) // work.devices)
        self.sharing = -(-count // sets)
        """How many workers have the same GPU."""
        self.stopping = False
        self.meetings: Iterator[str] = itertools.repeat("")
        """Where workers that train together meet: a new file each time, see `core.ranks.join`."""
        self.all = [_Slot() for _ in range(count)]

    @property
    def slots(self) -> int:
        """How many cells run at once."""
        return len(self.all)

    def _start(self, place: int) -> _Slot:
        work, size = self.work, self.work.devices
        meeting = next(self.meetings)
        slot = _Slot()
        for rank in range(size):
            variables = {}
            if self.gpus:
                first = place % (len(self.gpus) // size) * size
                variables = {VISIBLE: self.gpus[first + rank]}
            member = worker.Member(rank, size, meeting) if size > 1 else None
            given = (
                work.store.folder, work.data, work.device, work.storage, self.sharing, member,
            )  # fmt: skip
            slot.workers.append(work.processes.start(worker.main, *given, variables=variables))
        return slot

    def run(self, missing: Sequence[Task], bars: Bars, summary: Summary) -> None:
        """Hands out the cells and waits until all are done."""
        if self.work.devices == 1:
            self._run(missing, bars, summary)
            return
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            self.meetings = (f"file://{folder}/{number}" for number in itertools.count())
            self._run(missing, bars, summary)

    def _run(self, missing: Sequence[Task], bars: Bars, summary: Summary) -> None:
        waiting = list(missing)
        refusal: str | None = None
        try:
            while not self.ended():
                for place, slot in enumerate(self.all):
                    if waiting and slot.usable and slot.task is None:
                        self._hand_out(place, waiting.pop(0), bars)
                if not any(slot.task for slot in self.all):
                    break
                bars.tick()
                for place in range(self.slots):
                    refusal = self._listen(place, waiting, bars, summary) or refusal
                if refusal:
                    self.stopping = True
        finally:
            self._end()
        if refusal:
            raise UserError(refusal)
        if self.ended():
            store = self.work.store
            raise Stopped([kept(s.task, store, s.step) for s in self.all if s.task])

    def ended(self) -> bool:
        """Whether no more cells are to be handed out."""
        return self.stopping or self.signals.asked

    def _hand_out(self, place: int, task: Task, bars: Bars) -> None:
        if not self.all[place].workers:
            self.all[place] = self._start(place)
        slot = self.all[place]
        slot.task, slot.step, slot.done = task, 0, {}
        for _, pipe in slot.workers:
            with contextlib.suppress(OSError):  # a worker that died is heard of next
                pipe.send(task)
        bars.start(place, task.cell.label, task.cell.config.training is not None)

    def _listen(self, place: int, waiting: list[Task], bars: Bars, summary: Summary) -> str | None:
        """Handles the messages of a slot; returns the line of a refusal."""
        slot = self.all[place]
        if slot.task is None:
            return None
        # Waits on the processes too: a killed worker closes its pipe without a message.
        ends = [end for process, pipe in slot.workers for end in (pipe, process.sentinel)]
        wait(ends, timeout=0.25 / self.slots)
        for rank, (kind, *said) in slot.heard():
            if kind == "ready":
                slot.environment = said[0]
            elif kind == "step":
                slot.step = said[0]
                bars.step(place, *said)
            elif kind == "stopped":
                self.stopping = True
            elif kind == "done":
                slot.done[rank] = said[0]
                if said[0] == OUT_OF_MEMORY and len(slot.workers) > 1:
                    self._out_of_memory(place, bars, summary)
                    return None
                if len(slot.done) == len(slot.workers):
                    self._finish(place, slot.done[0], bars, summary)
            elif kind == "refused":
                slot.kill()
                slot.task, slot.usable = None, False
                return str(said[0])
            elif kind == "lost" and self.ended():
                return None
            elif slot.environment is None:
                return self._retire(place, rank, said, waiting, bars)
            else:
                self._crash(place, rank, said, bars, summary)
                return None
        return None

    def _finish(self, place: int, status: str, bars: Bars, summary: Summary) -> None:
        slot = self.all[place]
        assert slot.task
        summary.trained += 1
        bars.finish(place, f"{slot.task.cell.label}: {status}")
        slot.task = None
        bars.start(place, "", trained=False)

    def _out_of_memory(self, place: int, bars: Bars, summary: Summary) -> None:
        """Ends workers of which one ran out of memory, since the others wait for it."""
        slot = self.all[place]
        assert slot.task
        if self.work.store.record(slot.task.fingerprint) is None:
            result = Result(metrics={}, curves={}, cause="out of memory")
            entry = Record.of(slot.task, slot.environment or {}, OUT_OF_MEMORY, result)
            self.work.store.put(entry, RunLog())
        self._finish(place, slot.done.get(0, OUT_OF_MEMORY), bars, summary)
        slot.kill()

    def _crash(
        self, place: int, rank: int, said: Sequence[str], bars: Bars, summary: Summary
    ) -> None:
        """Stores that a cell crashed, and ends its workers; the next cell gets new ones."""
        slot = self.all[place]
        assert slot.task
        cell, environment, log = slot.task.cell, dict(slot.environment or {}), RunLog()
        if said:
            cause, log = said[0], RunLog(traceback=said[1])
            shown = f"crashed: {cause}"
        else:
            shown = cause = slot.death(rank)
            environment = {}
        self.work.store.put(Record.of_crash(slot.task, environment, cause), log)
        summary.crashed.append(f"{cell.name}: {cause}")
        bars.finish(place, f"{cell.label}: {shown}")
        slot.kill()
        self.all[place] = _Slot()

    def _retire(
        self, place: int, rank: int, said: Sequence[str], waiting: list[Task], bars: Bars
    ) -> str | None:
        """Gives up a slot whose workers cannot start, as on a lost GPU; its cell goes to another."""
        slot = self.all[place]
        assert slot.task
        cause = said[0] if said else slot.death(rank)
        slot.kill()
        waiting.insert(0, slot.task)
        slot.task, slot.usable = None, False
        bars.start(place, "", trained=False)
        if not any(other.usable for other in self.all):
            return f"no worker can start: {cause}"
        bars.note(f"one worker less, which could not start: {cause}")
        return None

    def _end(self) -> None:
        """Ends the workers: idle ones at once, busy ones after they have saved a checkpoint."""
        for slot in self.all:
            if slot.task is None:
                for _, pipe in slot.workers:
                    with contextlib.suppress(OSError):
                        pipe.send(None)
            elif slot.environment is None:
                slot.kill()
            else:
                slot.workers[0][0].terminate()  # which tells those that train with it
        deadline = time.monotonic() + PATIENCE
        for slot in self.all:
            for rank, (process, pipe) in enumerate(slot.workers):
                if rank and slot.task:
                    process.kill()  # the first worker has saved what there is to save
                # A dead fork server does not report its children; their ends of the pipes close with
                # them.
                with contextlib.suppress(EOFError, OSError):
                    while pipe.poll(max(0.0, deadline - time.monotonic())):
                        pipe.recv()
                process.join(max(0.1, deadline - time.monotonic()))
            slot.kill()
