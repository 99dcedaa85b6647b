"""Times contestants in turn, round after round, each in a process of its own on the same cores.

A round gives every contestant the same stretch of seconds, so that what disturbs the machine disturbs
all of them; ratios are taken within rounds. Who is not in turn is stopped, its data workers too.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from benchmark.core import determinism
from benchmark.core.errors import UserError
from tools.speed.cases import Case

WARM_SECONDS = 1.0
WARM_STEPS = 6
"""What comes before each stretch, whichever is longer: caches, and batches that a loader has made
ahead while nobody was timed (two for each worker)."""

PATIENCE = 10.0
"""Seconds that a contestant gets to end by itself."""


@dataclass(frozen=True)
class Stretch:
    """What one contestant did in one round."""

    images_per_second: float
    """Images, not views."""


class _Enough(Exception):
    """The stretch is over."""


def rounds(
    case: Case,
    names: Sequence[str],
    root: Path,
    device: str,
    cores: Sequence[int],
    count: int,
    seconds: float,
    missing: dict[str, str] | None = None,
) -> Iterator[dict[str, Stretch]]:
    """`count` rounds of the named contestants, each for `seconds`, on the CPU cores given.

    Raises UserError where a contestant cannot be built. With `missing`, such a contestant is left out
    and the reason is entered there.
    """
    started: dict[str, tuple[SpawnProcess, Connection]] = {}
    try:
        for name in names:
            started[name] = process, pipe = _start(name, case, root, device, cores, len(cores))
            refusal = _receive(pipe, name)
            if refusal and missing is not None:
                missing[name] = str(refusal)
                del started[name]
                process.join()
                continue
            if refusal:
                raise UserError(str(refusal))
            _group(process, signal.SIGSTOP)
        for _ in range(count):
            found = {}
            for name, (process, pipe) in started.items():
                _group(process, signal.SIGCONT)
                pipe.send(seconds)
                answer = _receive(pipe, name)
                _group(process, signal.SIGSTOP)
                if not isinstance(answer, Stretch):
                    raise RuntimeError(f"{name}: {answer}")
                found[name] = answer
            yield found
    finally:
        _end(started.values())


def together(
    case: Case, name: str, root: Path, device: str, cores: Sequence[int], count: int, seconds: float
) -> list[Stretch]:
    """`count` processes of one contestant, all at the same time, each with one thread as a cell has.

    Raises UserError where it cannot be built.
    """
    started: list[tuple[SpawnProcess, Connection]] = []
    try:
        # One by one, so that those before a failure are ended.
        started.extend(_start(name, case, root, device, cores, 1) for _ in range(count))
        for _, pipe in started:
            if refusal := _receive(pipe, name):
                raise UserError(str(refusal))
        for _, pipe in started:
            pipe.send(seconds)
        found = [_receive(pipe, name) for _, pipe in started]
    finally:
        _end(started)
    for answer in found:
        if not isinstance(answer, Stretch):
            raise RuntimeError(f"{name}: {answer}")
    return [answer for answer in found if isinstance(answer, Stretch)]


def _start(
    name: str, case: Case, root: Path, device: str, cores: Sequence[int], threads: int
) -> tuple[SpawnProcess, Connection]:
    determinism.prepare()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    given = (theirs, name, case, root, device, tuple(cores), threads)
    process = context.Process(target=_serve, args=given)
    process.start()
    theirs.close()
    return process, ours


def _end(started: Collection[tuple[SpawnProcess, Connection]]) -> None:
    """Ends the processes; at once if this one is interrupted or has failed."""
    patience = PATIENCE if sys.exc_info()[0] is None else 0.0
    for process, pipe in started:
        _group(process, signal.SIGCONT)
        with contextlib.suppress(OSError):
            pipe.send(None)
    for process, _ in started:
        process.join(patience)
        _group(process, signal.SIGKILL)
        process.join()


def _receive(pipe: Connection, name: str) -> object:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(f"the process of {name} died; its error stands above") from None


def _group(process: SpawnProcess, number: signal.Signals) -> None:
    # It leads a group of its own, with its data workers.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, number)


def _serve(
    pipe: Connection,
    name: str,
    case: Case,
    root: Path,
    device_name: str,
    cores: Sequence[int],
    threads: int,
) -> None:
    """Builds a contestant, then trains for as many seconds as each message says."""
    os.setpgrp()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    device = determinism.start(device_name)
    import torch

    from tools.speed.pipelines import CONTESTANTS

    torch.set_num_threads(threads)
    try:
        contestant = CONTESTANTS[name](case, root, device, workers=len(cores))
    except UserError as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    images = case.batch
    while (seconds := pipe.recv()) is not None:
        pipe.send(stretch(contestant.run, seconds, images, device.type))


def stretch(
    run: Callable[[Callable[[], None]], None], seconds: float, images: int, device: str
) -> Stretch:
    """Runs a contestant, whose steps have so many images, for some seconds after a warm-up."""
    import torch

    begun = time.perf_counter()
    measured: float | None = None
    steps = 0

    def tick() -> None:
        nonlocal begun, measured, steps
        now = time.perf_counter()
        enough = WARM_SECONDS if measured is None else seconds
        least = WARM_STEPS if measured is None else 2
        if now - begun >= enough and steps >= least:
            if device == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if measured is not None:
                measured = now - begun
                raise _Enough
            begun, measured, steps = now, 0.0, 0
        steps += 1

    with contextlib.suppress(_Enough):
        run(tick)
    assert measured
    return Stretch(steps * images / measured)
