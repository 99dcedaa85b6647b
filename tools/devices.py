# ruff: noqa: E402
"""Times the steps of one cell on one and on several CPU cores, or GPUs.

python -m tools.devices --devices 2 [--case resnet18]. The turns of one process and of all alternate, and
the ratio is taken within a round: what disturbs the machine disturbs both. `copies` is the ceiling: as
many processes that each train the cell by themselves, with their steps counted together.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from benchmark.core import determinism

determinism.prepare()  # as in training runs

import torch

from benchmark.backbones.base import channels_last
from benchmark.core import ranks
from benchmark.data.standardise import standardiser
from benchmark.training import network
from benchmark.training.loop import Interrupted, train
from tools.speed.cases import CASES, Case

ROOT = Path(__file__).parents[1]


def member(
    pipe: Connection, rank: int, size: int, meeting: str, case: Case, device_name: str, place: int
) -> None:
    """A process that trains in turns: it receives numbers of steps, answers seconds and ends at 0."""
    device = determinism.start(device_name)
    if device.type == "cuda":
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    if size > 1:
        ranks.join(rank, size, meeting, device)
    cell = case.cell(ROOT)
    method = channels_last(network.build(cell, case.manifest).to(device))
    left, begun = pipe.recv(), time.perf_counter()

    def turn(*_: object) -> bool:
        nonlocal left, begun
        left -= 1
        if left == 0:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            pipe.send(time.perf_counter() - begun)
            left, begun = pipe.recv(), time.perf_counter()
        return bool(left)

    with tempfile.TemporaryDirectory() as folder:
        images = case.images().to(device)
        labels = torch.zeros(len(images), dtype=torch.long, device=device)
        with contextlib.suppress(Interrupted):
            train(
                method, cell.config.recipe, 0, images, labels,
                standardiser(case.manifest, device), device, Path(folder) / "checkpoint", "", turn,
                checkpoint_steps=1_000_000,
            )  # fmt: skip
    if size > 1:
        ranks.leave()


def start(case: Case, size: int, shared: bool, folder: Path, device: str) -> list[Connection]:
    """`size` processes that train one cell together, or each its own."""
    context = multiprocessing.get_context("spawn")
    ends = []
    for rank in range(size):
        ours, theirs = context.Pipe()
        within = (rank, size) if shared else (0, 1)
        given = (theirs, *within, f"file://{folder}/{size}", case, device, rank)
        context.Process(target=member, args=given).start()
        ends.append(ours)
    return ends


def turn(ends: Sequence[Connection], steps: int) -> float:
    """Seconds of so many steps of all processes."""
    for end in ends:
        end.send(steps)
    return max(float(end.recv()) for end in ends)


def main() -> None:
    """Prints steps a second and ratios, as medians over rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--device", choices=list(CASES), default="cpu")
    parser.add_argument("--case", default="resnet18")
    parser.add_argument("--steps", type=int, default=4, help="in each turn")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    case = next(one for one in CASES[given.device] if one.name == given.case)
    with tempfile.TemporaryDirectory() as folder:
        turns = {
            "one": start(case, 1, True, Path(folder), given.device),
            "together": start(case, given.devices, True, Path(folder), given.device),
            "copies": start(case, given.devices, False, Path(folder), given.device),
        }
        for ends in turns.values():
            turn(ends, 2)  # warm
        found = [
            {name: turn(ends, given.steps) for name, ends in turns.items()}
            for _ in range(given.rounds)
        ]
        for ends in turns.values():
            for end in ends:
                end.send(0)
    for name in turns:
        rate = statistics.median(given.steps / one[name] for one in found)
        shares = given.devices if name == "copies" else 1
        gain = statistics.median(shares * one["one"] / one[name] for one in found)
        print(f"{name:9} {shares * rate:7.3f} steps/s  {gain:.2f} x")


if __name__ == "__main__":
    main()
