"""Times several cells at once on one device: which way of sharing it trains most cells an hour.

python -m tools.gpu_day.at_once --case cifar10-resnet18 --way processes --count 4

- `processes`: each cell in a process of its own, as `benchmark train --per-gpu` runs them. Whether they
  share the device by time or through MPS is decided by the environment.
- `streams`: the cells in threads of one process, each with a CUDA stream of its own.
- `batched`: the seeds of one row as one program (`torch.func`), on fixed views: their bare steps.

Prints one line of JSON with the images a second of all cells together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.parser import Parser, exit_code
from benchmark.core import determinism
from benchmark.core.errors import UserError, unknown
from benchmark.core.system import cores
from tools.speed import timing
from tools.speed.cases import CASES, Case
from tools.speed.measure import usable

if TYPE_CHECKING:  # later than `determinism.start`
    import torch

WAYS = ("processes", "streams", "batched")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figure; returns the exit code."""
    parser = Parser(prog="python -m tools.gpu_day.at_once", description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--way", required=True)
    parser.add_argument("--count", type=int, required=True, metavar="K", help="cells at once")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args(argv)
    return exit_code("at_once", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    # A termination ends the timed processes too, which are in groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    cases = {case.name: case for of in CASES.values() for case in of}
    if arguments.case not in cases:
        raise unknown("case", arguments.case, cases)
    if arguments.way not in WAYS:
        raise unknown("way", arguments.way, WAYS)
    if arguments.count < 1 or not 0 < arguments.seconds < 3600:
        raise UserError("--count starts at 1, --seconds is more than 0 and less than 3600")
    rate = measure(
        cases[arguments.case], arguments.way, Path.cwd(), arguments.device, arguments.count,
        arguments.seconds,
    )  # fmt: skip
    print(json.dumps({"images_per_second": rate}))


def measure(case: Case, way: str, root: Path, device: str, count: int, seconds: float) -> float:
    """The images a second of `count` cells at once."""
    if way == "processes":
        every = usable(cores())
        found = timing.together(case, "ours", root, device, every, count, seconds)
        return sum(one.images_per_second for one in found)
    chosen = determinism.start(device)
    return (_streams if way == "streams" else _batched)(case, root, chosen, count, seconds)


def _streams(case: Case, root: Path, device: torch.device, count: int, seconds: float) -> float:
    import torch

    from tools.speed.pipelines import Ours

    contestants = [Ours(case, root, device, 0) for _ in range(count)]
    found: list[timing.Stretch] = []

    def serve(contestant: Ours) -> None:
        cuda = device.type == "cuda"
        with torch.cuda.stream(torch.cuda.Stream()) if cuda else contextlib.nullcontext():
            found.append(timing.stretch(contestant.run, seconds, case.batch, device.type))

    threads = [threading.Thread(target=serve, args=(one,)) for one in contestants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(found) < count:
        raise RuntimeError("a thread ended in an error, which is above")
    return sum(one.images_per_second for one in found)


def _batched(case: Case, root: Path, device: torch.device, count: int, seconds: float) -> float:
    program = batched(case, root, device, count)
    images = case.batch * count
    return timing.stretch(program.run, seconds, images, device.type).images_per_second


def batched(case: Case, root: Path, device: torch.device, count: int) -> Any:
    """A contestant whose step is the bare step of `count` copies of the network at once."""
    import torch
    from torch import Tensor
    from torch.func import functional_call, stack_module_state

    from benchmark.core.randomness import Draw
    from benchmark.methods.base import Batch, Method
    from tools.speed.pipelines import Bare

    class Batched(Bare):
        """Weights, buffers and views have a first dimension more, one entry for each copy."""

        def __init__(self) -> None:
            super().__init__(case, root, device, 0)
            copies: list[torch.nn.Module] = [self.method] * count
            self.parameters, self.buffers = stack_module_state(copies)
            of = {id(own): self.parameters[name] for name, own in self.method.named_parameters()}
            self.optimizer = self.optimizer_of(lambda parameter: of[id(parameter)])

        def views(self) -> Iterator[list[Tensor]]:
            for views in super().views():
                yield [torch.stack([view] * count) for view in views]

        def loss(self, views: list[Tensor]) -> Tensor:
            method: Method = self.method

            def one(
                parameters: dict[str, Tensor], buffers: dict[str, Tensor], *views: Tensor
            ) -> Tensor:
                batch = Batch(list(views), torch.empty(0), Draw(0, 0), 0.0)
                loss: Tensor = functional_call(method, (parameters, buffers), (batch,)).loss
                return loss

            each = torch.func.vmap(one)(self.parameters, self.buffers, *views)
            total: Tensor = each.sum()
            return total

    return Batched()


if __name__ == "__main__":
    sys.exit(main())
