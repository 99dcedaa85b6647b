"""Many machines: cells as tasks of a Ray cluster, handed out and brought home by this process.

The store of this process is the one truth and the queue: a cell is handed out when a place is free, if
neither the store nor another command has it by then.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.components import plugins
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.execution import node, remote
from benchmark.execution.missing import Summary, Work, kept
from benchmark.execution.processes import PATIENCE, Processes, Signals, Stopped
from benchmark.execution.progress import Bars
from benchmark.planning.cell import Task
from benchmark.results.records import Record, RunLog, Store

ANSWER_SECONDS = 10.0
"""Within which a cluster has to answer."""

RETRIES = 10
"""How often a cell is started again when its node or Ray's process there is lost. A cell that takes its
node down each time ends as a crash."""

INSTALL = "uv sync --extra ray"

_GREET = "import sys, ray; ray._raylet.GcsClient(address=sys.argv[1])"


@dataclass(frozen=True)
class Asked:
    """What the user asks of a cluster."""

    address: str
    """`auto` or HOST:PORT."""
    cores: float = 1
    """Of each cell."""
    gpus: float | None = None
    """Of each cell; if not given, one where a node has any and the device is not the CPU."""
    jobs: int | None = None
    """Most cells at once; if not given, as many as the nodes have room for."""
    shared: Path | None = None
    """A folder that all nodes see, for checkpoints."""


@dataclass
class _Running:
    task: Task
    number: int
    place: int
    step: int = 0


class Cluster:
    """A connection to a Ray cluster, as a context; it is made when there is something to train."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.gpus = 0.0
        self.slots = 0
        self.place: remote.Place | None = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        if "ray" in sys.modules:
            import ray

            with _handlers():
                ray.shutdown()

    def check(
        self, processes: Processes, tasks: Sequence[Task], data: Path, device: str, devices: int
    ) -> tuple[dict[str, Any], int, list[str]]:
        """Connects, refuses nodes that differ from this machine, and builds every network on a node.

        See `missing.check_here`. The environment is that of the node.
        """
        _connect(self.asked.address)
        import ray

        signals = processes.signals
        nodes = [entry for entry in ray.nodes() if entry["Alive"]]
        resources = {entry["NodeID"]: entry["Resources"] for entry in nodes}
        self.gpus = _gpus(self.asked.gpus, device, resources.values())
        room = {key: self._room(has) for key, has in resources.items()}
        if not (total := sum(room.values())):
            most = (max(has.get(name, 0) for has in resources.values()) for name in ("CPU", "GPU"))
            raise UserError(
                f"a cell needs {_needs(self.asked.cores, self.gpus)} (--cores, --gpus), and no node of "
                f"the cluster {self.asked.address} has them: the most are {_needs(*most)}"
            )
        self.slots = self.asked.jobs or total
        used = [entry for entry in nodes if room[entry["NodeID"]]]
        self.place = remote.Place(
            data, "cuda" if self.gpus else "cpu", "auto", _sharing(self.gpus), self.asked.shared,
            os.environ.get(plugins.VARIABLE, ""), node.versions(node.packages()),
        )  # fmt: skip
        self._compare(used, tasks, data, signals)
        ask = ray.remote(num_cpus=0, num_gpus=self.gpus, max_retries=RETRIES)(remote.check)
        try:
            checked = ask.remote([_portable(task) for task in tasks], self.place)
            _await([checked], signals)
            environment, gpus, loaded = ray.get(checked)
            return environment, gpus, loaded
        except ray.exceptions.RayTaskError as error:
            raise _refusal(error) from None
        except ray.exceptions.RayError as error:
            raise UserError(
                f"no node could build the networks, in {RETRIES + 1} attempts: {_first_line(error)}"
            ) from None

    def _room(self, has: Mapping[str, float]) -> int:
        """How many cells a node with these resources can run at once."""
        room = has.get("CPU", 0) / self.asked.cores
        if self.gpus:
            # A cell has a part of one GPU.
            room = min(room, int(has.get("GPU", 0)) * _sharing(self.gpus))
        return int(room + 1e-9)

    def _compare(
        self, nodes: Sequence[Any], tasks: Sequence[Task], data: Path, signals: Signals
    ) -> None:
        """Refuses a node with other versions, other images or another shared folder."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        assert self.place
        images = {str(data): tasks[0].dataset}
        for task in tasks:
            for track, sha256 in task.cell.config.evaluation.transfer.items():
                images[str(data.with_name(track))] = sha256
        shared = self.asked.shared
        # As they are, since the benchmark may not be installed there.
        ray.cloudpickle.register_pickle_by_value(node)
        ask = ray.remote(num_cpus=0)(node.lacks)
        with _token(shared) as token:
            asked = [
                ask.options(scheduling_strategy=On(entry["NodeID"], soft=False)).remote(
                    self.place.versions, images, str(shared) if shared else None, token
                )
                for entry in nodes
            ]
            _await(asked, signals)
        ray.cloudpickle.unregister_pickle_by_value(node)
        lost = ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError
        for entry, ref in zip(nodes, asked, strict=True):
            # A node that is lost meanwhile has nothing to differ in; each cell compares once more.
            with contextlib.suppress(*lost):
                if line := ray.get(ref):
                    raise UserError(f"node {entry['NodeManagerAddress']}: {line}")

    def way(self, work: Work) -> Driver:
        """The way of running cells on this cluster."""
        assert self.place
        self.slots = min(self.slots, work.cells)
        place = replace(self.place, storage=work.storage)
        return Driver(work, place, self.slots, self.asked.cores, self.gpus)


class Driver:
    """Hands out cells to a cluster and stores what they come to."""

    def __init__(
        self, work: Work, place: remote.Place, slots: int, cores: float, gpus: float
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        self.work, self.place, self.slots = work, place, slots
        self.signals = work.processes.signals
        self.stopping = False
        self.free = list(range(slots))
        self.running: dict[Any, _Running] = {}
        self.handed_out = 0
        self.claims = Claims(work.store)
        here = On(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox: Any = (
            ray.remote(remote.Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        )
        self.train = ray.remote(
            num_cpus=cores, num_gpus=gpus, max_retries=RETRIES,
            # Ray would end its process after each task with a GPU; the one that uses it is ended anyway.
            max_calls=0,
        )(remote.run)  # fmt: skip

    def run(self, missing: Sequence[Task], bars: Bars, summary: Summary) -> None:
        """See `missing.Way`."""
        import ray

        waiting = list(missing)
        refusal: str | None = None
        try:
            while (waiting or self.running) and not self.ended():
                bars.tick()
                self._hand_out(waiting, bars, summary)
                done = self._finished(0.25)
                for number, step in ray.get(self.mailbox.take.remote()).items():
                    self._show(number, step, bars)
                for ref in done:
                    refusal = self._bring_home(ref, bars, summary) or refusal
                self.stopping = self.stopping or bool(refusal)
        finally:
            self._end(bars, summary)
        if refusal:
            raise UserError(refusal)
        if self.ended():
            kept_in = Store(self.place.shared) if self.place.shared else self.work.store
            raise Stopped([kept(at.task, kept_in, at.step) for at in self.running.values()])

    def ended(self) -> bool:
        """Whether no more cells are to be handed out."""
        return self.stopping or bool(self.signals.asked)

    def _hand_out(self, waiting: list[Task], bars: Bars, summary: Summary) -> None:
        """Gives each free place the first cell that is neither done nor with another command."""
        for task in list(waiting):
            if not self.free:
                return
            if not self.claims.take(task.fingerprint):
                continue
            waiting.remove(task)
            cell, place = task.cell, self.free[0]
            bars.start(place, cell.label, cell.config.training is not None)
            if self.work.done(task):
                self.claims.release(task.fingerprint)
                summary.found += 1
                bars.finish(place, f"{cell.label}: done by another command")
                continue
            del self.free[0]
            self.handed_out += 1
            ref = self.train.remote(self.handed_out, _portable(task), self.place, self.mailbox)
            self.running[ref] = _Running(task, self.handed_out, place)

    def _finished(self, seconds: float) -> list[Any]:
        """The tasks that end within some seconds."""
        import ray

        if not self.running:
            time.sleep(seconds)
            return []
        return list(ray.wait(list(self.running), num_returns=1, timeout=seconds)[0])

    def _show(self, number: int, step: tuple[int, int, float], bars: Bars) -> None:
        for at in self.running.values():
            if at.number == number:
                at.step = step[0]
                bars.step(at.place, *step)

    def _bring_home(self, ref: Any, bars: Bars, summary: Summary) -> str | None:
        """Stores what a task has come to and frees its place; returns the line of a refusal."""
        import ray

        try:
            outcome: remote.Outcome = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            cause = f"{type(error.cause).__name__}: {error.cause}"
            log = RunLog(traceback=str(error))
            outcome = remote.Outcome("lost", cause, run_log=log)
        except ray.exceptions.RayError as error:
            cause = f"its node was lost {RETRIES + 1} times ({_first_line(error)})"
            outcome = remote.Outcome("lost", cause)
        if outcome.kind == "stopped":
            self.stopping = True
            return None
        at = self.running.pop(ref)
        task, cell, store = at.task, at.task.cell, self.work.store
        if outcome.kind == "refused":
            return outcome.said
        for name, content in outcome.files.items():
            if not (store.folder / name).is_file():
                canonical_json.write(store.folder / name, content)
        record = outcome.record or Record.of_crash(task, {}, outcome.said)
        store.put(record, outcome.run_log)
        if record.is_final and self.place.shared and self.place.shared != store.folder:
            away = Store(self.place.shared)
            shutil.rmtree(away.cell_dir(task.fingerprint), ignore_errors=True)
            for name in outcome.files:
                (away.folder / name).unlink(missing_ok=True)
        self.claims.release(task.fingerprint)
        self.free.append(at.place)
        if outcome.kind == "done":
            summary.trained += 1
            bars.finish(at.place, f"{cell.label}: {outcome.said}")
        else:
            summary.crashed.append(f"{cell.name}: {outcome.said}")
            crashed = "crashed: " if outcome.kind == "crashed" else ""
            bars.finish(at.place, f"{cell.label}: {crashed}{outcome.said}")
        return None

    def _end(self, bars: Bars, summary: Summary) -> None:
        """Tells the running cells to save their state, and waits for those that have started."""
        import ray

        started = ray.get(self.mailbox.stop.remote())
        waited = {ref for ref, at in self.running.items() if at.number in started}
        deadline = time.monotonic() + PATIENCE + 2 * remote.REPORT_SECONDS
        while waited and (left := deadline - time.monotonic()) > 0:
            done, _ = ray.wait(list(waited), num_returns=1, timeout=min(left, 1))
            for ref in done:
                waited.remove(ref)
                self._bring_home(ref, bars, summary)
        self.claims.close()


class Claims:
    """Cells that a command has handed out: the system forgets them when its process ends.

    Each is a locked byte of one file. On Windows, which has no such locks, all are free.
    """

    def __init__(self, store: Store) -> None:
        store.folder.mkdir(parents=True, exist_ok=True)
        self.file = (store.folder / "claims.lock").open("ab")

    def take(self, fingerprint: str) -> bool:
        """Whether no other command has the cell; it is this one's from then on."""
        return self._lock(fingerprint, take=True)

    def release(self, fingerprint: str) -> None:
        """Leaves the cell to others."""
        self._lock(fingerprint, take=False)

    def close(self) -> None:
        """Releases all."""
        self.file.close()

    def _lock(self, fingerprint: str, take: bool) -> bool:
        try:
            import fcntl
        except ImportError:
            return True
        how = fcntl.LOCK_EX | fcntl.LOCK_NB if take else fcntl.LOCK_UN
        try:
            fcntl.lockf(self.file, how, 1, int(fingerprint[:15], 16))
        except (BlockingIOError, PermissionError):
            return False
        return True


def _portable(task: Task) -> Task:
    """The task, with the absolute path of a file with initial weights."""
    weights = task.cell.weights
    if weights is None or not Path(weights).expanduser().is_file():
        return task
    path = str(Path(weights).expanduser().absolute())
    return replace(task, cell=replace(task.cell, weights=path))


def _gpus(asked: float | None, device: str, resources: Iterable[Mapping[str, float]]) -> float:
    """The share of a GPU that each cell gets."""
    if asked is None:
        any_there = any(has.get("GPU", 0) for has in resources)
        return 1.0 if device == "cuda" or (device == "auto" and any_there) else 0.0
    return asked


def _sharing(gpus: float) -> int:
    """How many cells that each get this share of a GPU have the same one."""
    return int(1 / gpus + 1e-9) if gpus else 1


def _needs(cores: float, gpus: float) -> str:
    return f"{cores:g} {'core' if cores == 1 else 'cores'} and {gpus:g} {'GPU' if gpus == 1 else 'GPUs'}"


def _connect(address: str) -> None:
    """Connects this process to a cluster; UserError if that is not possible."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"--on {address} needs Ray, which is not installed: `{INSTALL}`")
    import ray

    found = _found(address)
    with _handlers():
        try:
            ray.init(
                address=found,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            raise UserError(f"the cluster {address} cannot be used: {error}") from None


def _found(address: str) -> str:
    """The HOST:PORT of a cluster that answers; Ray itself waits for minutes where none does."""
    deadline = time.monotonic() + ANSWER_SECONDS
    silent = UserError(
        f"no Ray cluster answers at {address} within {ANSWER_SECONDS:.0f} s: is it running, and is this "
        "one of its machines? (`ray start --head`)"
    )
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        try:
            found = canonicalize_bootstrap_address("auto") or ""
        except ConnectionError:
            raise UserError(
                "--on auto finds no Ray cluster on this machine: start one with `ray start --head`, or "
                "name its address"
            ) from None
    else:
        found = address
    match = re.fullmatch(r"(?P<host>[^\s/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})", found)
    if match is None:
        raise UserError(
            f"--on is {address!r}, expected auto or the HOST:PORT of the cluster's head (its port is "
            "6379 if none was chosen)"
        )
    try:
        host, port = match["host"].strip("[]"), int(match["port"])
        socket.create_connection((host, port), ANSWER_SECONDS).close()
        # Whatever else answers at that port does not speak to Ray.
        subprocess.run(
            [sys.executable, "-c", _GREET, found], check=True, capture_output=True,
            timeout=max(1.0, deadline - time.monotonic()),
        )  # fmt: skip
    except (OSError, OverflowError, subprocess.SubprocessError):
        raise silent from None
    return found


@contextlib.contextmanager
def _handlers() -> Iterator[None]:
    """Keeps the handlers of signals, which Ray replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _token(shared: Path | None) -> Iterator[str]:
    """The name of a new file in the shared folder, by which nodes can tell that it is the same one."""
    name = f".shared-{uuid.uuid4().hex}"
    if shared is None:
        yield name
        return
    (shared / name).touch()
    try:
        yield name
    finally:
        (shared / name).unlink(missing_ok=True)


def _await(refs: Sequence[Any], signals: Signals) -> None:
    """Waits until tasks have ended; Stopped on a signal."""
    import ray

    left = list(refs)
    while left:
        if signals.asked:
            raise Stopped
        _, left = ray.wait(left, num_returns=len(left), timeout=0.25)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _refusal(error: Any) -> Exception:
    """The user's error that a task has raised, or the task's error."""
    return error.cause if isinstance(error.cause, UserError) else error
