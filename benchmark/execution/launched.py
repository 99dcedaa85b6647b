"""Cells in processes that a launcher has started, which train each cell together, one after another.

`torchrun --nproc-per-node 2 -m benchmark train …` starts the command in each of them. Rank 0 runs it: it
reads, prints, decides what is missing and publishes. It hands every cell to the others too, which do
nothing else. After a crash or a lack of memory some processes wait for the others, so the command ends,
and the launcher ends its processes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from benchmark.core import determinism
from benchmark.core.errors import CheckFailed, UserError
from benchmark.core.wording import counted
from benchmark.data.manifest import Storage
from benchmark.execution import worker
from benchmark.execution.missing import Summary, Work, kept
from benchmark.execution.processes import Stopped
from benchmark.execution.progress import Bars
from benchmark.planning.cell import OUT_OF_MEMORY, Task
from benchmark.results.records import Record, RunLog, Store

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, and launchers like it, set in the environment of each process."""


Handed = tuple[Task, Storage, Path]
"""A cell, where its images are kept, and the folder of the store."""


def place() -> tuple[int, int] | None:
    """Rank and number of the processes that a launcher started, None for a process by itself."""
    if not all(os.environ.get(name) for name in VARIABLES):
        return None
    size = int(os.environ["WORLD_SIZE"])
    return (int(os.environ["RANK"]), size) if size > 1 else None


class Group:
    """This process among those of the launcher. As a context it joins them and leaves them."""

    def __init__(self, device: str) -> None:
        found = place()
        if found is None:
            raise ValueError("expected a process that a launcher started")
        self.rank, self.size = found
        self.leads = self.rank == 0
        self.device = _device(device)
        self.together = False
        """Whether the processes are inside a cell, or were when one of them failed."""

    def __enter__(self) -> Group:
        from benchmark.core import ranks

        if not self.leads:
            # Rank 0 stops them all after the same step.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        ranks.join(self.rank, self.size, "env://", self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if self.together:
            return
        from benchmark.core import ranks

        if self.leads:
            self._shared(None)
        ranks.leave()

    def _shared(self, value: Handed | None) -> Handed | None:
        """Rank 0's value."""
        import torch
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def follow(self, data: Callable[[str], Path]) -> None:
        """Trains what rank 0 hands out, until it ends; `data` is the folder of a track's images.

        Raises CheckFailed or UserError if this process alone cannot go on.
        """
        while given := self._shared(None):
            task, storage, home = given
            self.together = True
            folder = data(task.cell.track)
            kind, *said = worker.attempt(
                task, folder, Store(home), self.device, lambda *_: True, storage
            )
            _check(task, f"rank {self.rank}: ", kind, said)
            self.together = False

    def way(self, work: Work) -> Leader:
        """The way of running cells in these processes."""
        return Leader(self, work)

    def run(self, task: Task, work: Work, progress: Callable[[int, int, Tensor], bool]) -> Any:
        """Runs a cell in all processes and returns its message, see `worker`."""
        self._shared((task, work.storage, work.store.folder))
        self.together = True
        message = worker.attempt(task, work.data, work.store, self.device, progress, work.storage)
        self.together = message[0] not in ("done", "stopped") or message[1:] == (OUT_OF_MEMORY,)
        return message


class Leader:
    """What rank 0 does; see `missing.Way`."""

    slots = 1

    def __init__(self, group: Group, work: Work) -> None:
        self.group, self.work = group, work

    def run(self, missing: Sequence[Task], bars: Bars, summary: Summary) -> None:
        """One cell after another. Raises CheckFailed after a crash or a lack of memory."""
        work = self.work
        signals = work.processes.signals
        for task in missing:
            if signals.asked:
                raise Stopped
            cell, last, reported = task.cell, 0, 0.0

            def progress(step: int, steps: int, loss: Tensor) -> bool:
                nonlocal last, reported
                last = step
                if time.monotonic() - reported > worker.REPORT_SECONDS or step == steps:
                    reported = time.monotonic()
                    bars.step(0, step, steps, float(loss))
                    bars.tick()
                return not signals.asked

            bars.start(0, cell.label, cell.config.training is not None)
            kind, *said = self.group.run(task, work, progress)
            if kind == "stopped":
                raise Stopped([kept(task, work.store, last)])
            if kind == "crashed":
                entry = Record.of_crash(task, work.environment, said[0])
                work.store.put(entry, RunLog(traceback=said[1]))
            elif kind == "done":
                bars.finish(0, f"{cell.label}: {said[0]}")
                summary.trained += 1
            _check(task, "", kind, said)


def _check(task: Task, where: str, kind: str, said: Sequence[str]) -> None:
    """Raises the error of a process after which the others wait for it."""
    if kind == "refused":
        raise UserError(f"{where}{said[0]}")
    if kind == "crashed":
        raise CheckFailed(f"{where}{task.cell.name} crashed: {said[0]}; {AGAIN}")
    if said == [OUT_OF_MEMORY]:
        raise CheckFailed(f"{where}{task.cell.name} ran out of memory; {AGAIN}")


AGAIN = "the other processes wait for this one, so all end; the same command trains the rest"


def _device(name: str) -> torch.device:
    """This process's device: of a machine's GPUs the one of its local rank."""
    device = determinism.start(name)
    import torch

    if device.type != "cuda":
        return torch.device("cpu")
    local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= gpus:
        has = f"this machine has {counted(gpus, 'GPU')}"
        raise UserError(f"LOCAL_RANK is {local}, expected a number below {gpus}: {has}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
