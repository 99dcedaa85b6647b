"""Trains the cells that have no result yet, in whatever way cells are run.

A way of running cells gets those that are missing: worker processes of this machine (`local`), the
processes of a launcher (`launched`) or a cluster. What counts as done, what is checked before and how a
signal is answered is the same for all, and is here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open

from benchmark.core import determinism
from benchmark.core.errors import UserError
from benchmark.data.manifest import Storage
from benchmark.execution import worker
from benchmark.execution.processes import Processes, Signals, Stopped
from benchmark.execution.progress import Bars, starting
from benchmark.planning.cell import OUT_OF_MEMORY, Task
from benchmark.planning.images import check_transfer
from benchmark.planning.sizes import check_devices
from benchmark.results import published
from benchmark.results.records import Record, Store


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


@dataclass(frozen=True)
class Work:
    """What a way of running cells is told about them and about this machine."""

    processes: Processes
    store: Store
    data: Path
    """The folder of the built dataset."""
    device: str
    """`cpu`, `cuda` or `auto`."""
    storage: Storage
    environment: Mapping[str, Any]
    """This machine's `determinism.environment`."""
    gpus: int
    """How many GPUs cells can use; 0 if they run on the CPU."""
    devices: int
    """How many GPUs, or CPU cores, train each cell together."""
    cells: int
    """How many are to be trained."""
    done: Callable[[Task], bool]
    """Whether the store has the result of a cell by now: another command may have trained it."""


Check = Callable[[Processes, Sequence[Task], Path, str, int], tuple[dict[str, Any], int, list[str]]]
"""See `check_here`."""


class Way(Protocol):
    """A way of running cells."""

    @property
    def slots(self) -> int:
        """How many cells run at once, for the progress bars."""
        ...

    def run(self, missing: Sequence[Task], bars: Bars, summary: Summary) -> None:
        """Trains the cells, stores their records and adds their outcomes to `summary`.

        Raises UserError if a cell cannot run here and Stopped on a signal, both after the cells that
        are running have saved their state.
        """
        ...


def train_missing(
    tasks: Sequence[Task],
    store: Store,
    data: Path,
    way: Callable[[Work], Way],
    device: str = "auto",
    root: Path | None = None,
    retry: bool = False,
    states: bool = False,
    storage: Storage = "auto",
    devices: int = 1,
    check: Check | None = None,
    others: Sequence[Task] = (),
) -> Summary:
    """Trains every task that the store has no finished record of, in a way that `way` makes.

    `data` is the folder of the built dataset. With the `root` of a project, its published records are
    adopted if the environment that made them is the one of this machine. `storage` is where the images
    are kept, and `devices` is how many train each cell together. With `retry`, cells that ran out of
    memory are trained again, and with `states` those whose final state is not stored. `check` is made
    where the cells run, by default here. `others` are left to other commands; their published records
    are among the summary's where they would be adopted. Raises UserError before any training if a cell
    cannot be built, and Stopped on a signal, after the running cells have saved their state.
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
    elsewhere = published.finished(others, root) if root else []
    if not missing and not elsewhere:
        return summary
    check_devices([task.cell for task in missing], devices)
    for task in missing:
        check_transfer(data, task.cell.config.evaluation.transfer)
    determinism.prepare()
    with Signals() as signals:
        processes = Processes(signals)
        with starting():
            environment, gpus, loaded = (check or check_here)(
                processes, missing or others, data, device, devices
            )
        for line in loaded:
            print(line, file=sys.stderr)
        for entry in published.finished(missing, root) if root else ():
            if entry.environment == environment and counts(wanted[entry.fingerprint], entry):
                store.put(entry, None)
                summary.records[entry.fingerprint] = entry
        summary.records |= {e.fingerprint: e for e in elsewhere if e.environment == environment}
        missing = lacking()
        if not missing:
            return summary
        work = Work(
            processes, store, data, device, storage, environment, gpus, devices, len(missing),
            lambda task: counts(task, store.last(task.fingerprint)),
        )  # fmt: skip
        made = way(work)
        with Bars(total=len(wanted), done=summary.found, slots=made.slots) as bars:
            made.run(missing, bars, summary)
    summary.records |= store.read(missing)
    return summary


def check_here(
    processes: Processes, tasks: Sequence[Task], data: Path, device: str, devices: int
) -> tuple[dict[str, Any], int, list[str]]:
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
    process, ours = processes.start(worker.check, list(distinct.values()), data, device, devices)
    try:
        while not ours.poll(0.2):
            if processes.signals.asked:
                process.terminate()
                raise Stopped
        environment, gpus, refusal, loaded = ours.recv()
    except EOFError:
        if processes.signals.asked:
            raise Stopped from None
        raise RuntimeError("the check of the networks died; its error is above") from None
    finally:
        process.join()
    if refusal:
        raise UserError(refusal)
    return dict(environment), gpus, loaded


def kept(task: Task, store: Store, step: int) -> str:
    """What the store has of a cell that was stopped after `step` steps, in one line."""
    name, recipe = task.cell.name, task.cell.config.training
    if store.record(task.fingerprint):
        return f"{name}: finished"
    if recipe is None:
        return f"{name}: nothing to save; its evaluation starts again"
    judged = task.cell.config.evaluation.judge == "test"
    if judged and store.trained(task.training_key).is_file():
        return f"{name}: its training is saved; its evaluation starts again"
    saved = _saved_steps(store.checkpoint(task.fingerprint))
    lost = f"; {step - saved} more are lost" if step > saved else ""
    return f"{name}: {saved} of {recipe.steps} steps are saved{lost}"


def _saved_steps(checkpoint: Path) -> int:
    """The steps that a checkpoint has done, 0 without a whole one; this process never loads torch."""
    try:
        with safe_open(checkpoint, "numpy") as file:
            return int(json.loads(file.metadata()["checkpoint"])["step"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return 0
