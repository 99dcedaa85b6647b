"""The pool of workers on made-up machines: which GPU each sees, and what a fault costs.

The workers are real processes that play their parts without training.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.core.errors import UserError
from benchmark.data import storage
from benchmark.execution import local, worker
from benchmark.execution.missing import Summary, Work
from benchmark.execution.processes import Processes, Signals
from benchmark.execution.progress import Bars
from benchmark.planning.cell import Task
from benchmark.results.records import Record, Result, RunLog, Store
from tests.helpers import tiny

LOST_GPU = "2"
ASSERT = "AcceleratorError: CUDA error: device-side assert triggered"


def play(
    pipe: Connection, home: Path, data: Path, device: str, kept: str, sharing: int, member: Any
) -> None:
    """A worker whose tasks say by their label what happens, and to which rank."""
    rank = member.rank if member else 0
    gpu = os.environ.get(local.VISIBLE, "")
    if device == "lost" and gpu == LOST_GPU:
        pipe.send(("unable", "device 'cuda': this machine has no CUDA GPU that torch can use"))
        return
    pipe.send(("ready", {"device": f"GPU {gpu}"}))
    while task := pipe.recv():
        what, _, who = task.cell.label.partition(" ")
        note = f"{gpu} {os.getpid()} {sharing} {member.rendezvous if member else ''}"
        (data / f"{task.cell.label}, rank {rank}").write_text(note, encoding="utf-8")
        if what in ("dies", "crashes", "lacks") and who != str(rank):
            time.sleep(600)  # as if it waited for the others
        elif what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "crashes":
            pipe.send(("crashed", ASSERT, "Traceback"))
            return
        elif what == "lacks":
            pipe.send(("done", "out-of-memory"))
        else:
            if rank == 0:
                Store(home).put(Record.of(task, {}, "done", Result()), RunLog())
            pipe.send(("done", "done"))


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Signals() as signals:
        yield Processes(signals)


class Machine:
    """A machine with GPUs, and what the cells that ran on it left."""

    def __init__(self, folder: Path, processes: Processes, gpus: int) -> None:
        self.folder, self.processes, self.gpus = folder, processes, gpus
        self.store = Store(folder / "store")

    def work(self, cells: int, devices: int = 1, device: str = "auto") -> Work:
        return Work(
            self.processes, self.store, self.folder, device, "auto", {}, self.gpus, devices, cells,
            lambda task: self.store.record(task.fingerprint) is not None,
        )  # fmt: skip

    def run(
        self,
        labels: list[str],
        jobs: int | None = None,
        per_gpu: int | None = None,
        **more: Any,
    ) -> tuple[Summary, dict[str, Record]]:
        """The summary, and the records by label."""
        cell = tiny.cell("simclr-resnet-bn-s0")
        tasks = [
            Task(replace(cell, label=label), f"{number}") for number, label in enumerate(labels)
        ]
        pool = local.workers(jobs, per_gpu)(self.work(len(tasks), **more))
        summary = Summary()
        with Bars(len(tasks), 0, pool.slots) as bars:
            pool.run(tasks, bars, summary)
        found = self.store.read(tasks)
        return summary, {task.cell.label: found[task.fingerprint] for task in tasks}

    def seen(self, label: str) -> list[list[str]]:
        """GPU, process, workers of the GPU and rendezvous of each rank that had the cell."""
        files = sorted(self.folder.glob(f"{label}, rank *"))
        return [file.read_text(encoding="utf-8").split(" ") for file in files]


@pytest.fixture
def machine(tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(worker, "main", play)
    monkeypatch.delenv(local.VISIBLE, raising=False)
    return Machine(tmp_path, processes, gpus=4)


def test_each_worker_sees_one_gpu(machine: Machine) -> None:
    summary, records = machine.run(list("abcd"))
    assert summary.trained == len(records) == 4
    seen = [machine.seen(label)[0] for label in "abcd"]
    assert [gpu for gpu, *_ in seen] == ["0", "1", "2", "3"]
    assert len({pid for _, pid, *_ in seen}) == 4
    assert {sharing for _, _, sharing, _ in seen} == {"1"}


def test_several_workers_on_each_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the GPUs that the command may use."""
    monkeypatch.setenv(local.VISIBLE, "GPU-77, 5")
    machine.gpus = 2
    machine.run(list("abcd"), per_gpu=2)
    seen = [machine.seen(label)[0] for label in "abcd"]
    assert [gpu for gpu, *_ in seen] == ["GPU-77", "5", "GPU-77", "5"]
    assert {sharing for _, _, sharing, _ in seen} == {"2"}


@pytest.mark.parametrize(
    ("gpus", "devices", "jobs", "per_gpu", "slots"),
    [
        (0, 1, None, None, 6),
        (0, 2, None, None, 3),
        (0, 4, None, None, 1),
        (0, 2, 5, None, 5),
        (4, 1, None, None, 4),
        (4, 1, 3, None, 3),
        (4, 1, 30, 2, 8),
        (4, 3, None, None, 1),
        (4, 2, None, 3, 6),
    ],
)
def test_how_many_cells_run_at_once(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    devices: int,
    jobs: int | None,
    per_gpu: int | None,
    slots: int,
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 6)
    machine.gpus = gpus
    assert local.workers(jobs, per_gpu)(machine.work(100, devices)).slots == slots
    assert local.workers(jobs, per_gpu)(machine.work(1, devices)).slots == 1


@pytest.mark.parametrize(("gpus", "has"), [(0, "2 CPU cores"), (1, "1 GPU")])
def test_more_devices_than_there_are(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, gpus: int, has: str
) -> None:
    monkeypatch.setattr(local, "cores", lambda: 2)
    machine.gpus = gpus
    line = f"^--devices is 3, expected at most {gpus or 2}: this machine has {has}$"
    with pytest.raises(UserError, match=line):
        local.workers()(machine.work(1, devices=3))
    if not gpus:
        with pytest.raises(UserError, match=r"^--per-gpu is 2, but cells run on the CPU"):
            local.workers(per_gpu=2)(machine.work(1))


def test_a_broken_context_costs_one_cell(machine: Machine) -> None:
    """After such an error no call of CUDA works in the process."""
    machine.gpus = 1
    summary, records = machine.run(["a", "crashes 0", "b"])
    assert summary.trained == 2
    assert summary.crashed == [f"mini/leaderboard/crashes 0: {ASSERT}"]
    lost = records["crashes 0"]
    assert (lost.status, lost.result.cause) == ("crashed", ASSERT)
    assert lost.environment == {"device": "GPU 0"}
    assert machine.store.run_log(lost.fingerprint).traceback == "Traceback"
    before, broken, after = (machine.seen(label)[0][1] for label in ("a", "crashes 0", "b"))
    assert before == broken != after


def test_a_lost_gpu_costs_no_cell(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that cannot start has trained nothing: another one takes the cell."""
    summary, records = machine.run(list("abcdef"), device="lost")
    assert summary.trained == len(records) == 6
    assert {machine.seen(label)[0][0] for label in records} == {"0", "1", "3"}
    assert "one worker less, which could not start: device 'cuda'" in capsys.readouterr().err


def test_no_gpu_left_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(local.VISIBLE, LOST_GPU)
    machine.gpus = 1
    with pytest.raises(UserError, match=r"^no worker can start: device 'cuda': this machine"):
        machine.run(["a"], device="lost")


def test_each_rank_has_its_own_gpu(machine: Machine) -> None:
    machine.run(["a", "b"], devices=2)
    pairs = {tuple(gpu for gpu, *_ in machine.seen(label)) for label in "ab"}
    assert pairs == {("0", "1"), ("2", "3")}
    meetings = [{meeting for *_, meeting in machine.seen(label)} for label in "ab"]
    assert [len(of_group) for of_group in meetings] == [1, 1]
    assert meetings[0] != meetings[1]
    assert all(meeting.startswith("file:///") for of_group in meetings for meeting in of_group)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(
    ("fault", "status", "cause"),
    [
        ("dies", "crashed", "worker {} of the cell died (signal SIGKILL"),
        ("crashes", "crashed", ASSERT),
        ("lacks", "out-of-memory", "out of memory"),
    ],
)
def test_a_fault_of_any_rank_ends_the_cell_for_all(
    machine: Machine, fault: str, status: str, cause: str, rank: int
) -> None:
    """The others wait for it and would do so for ever."""
    machine.gpus, label = 3, f"{fault} {rank}"
    summary, records = machine.run(["a", label, "b"], devices=3)
    assert summary.trained == (3 if fault == "lacks" else 2)
    found = records[label]
    assert found.status == status
    assert (found.result.cause or "").startswith(cause.format(rank))
    before, after = ({pid for _, pid, *_ in machine.seen(each)} for each in "ab")
    assert len(before) == len(after) == 3
    assert not before & after
    for pid in before | after:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_workers_of_a_gpu_share_what_auto_takes_of_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, free = torch.device("cuda"), 4000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 8000))
    monkeypatch.setattr(storage, "_sharing", 1)
    assert storage.chosen("auto", 1000, gpu) == "device"
    storage.share_device(4)
    assert storage.chosen("auto", 1000, gpu) == "disk"
    assert storage.chosen("auto", 250, gpu) == "device"
