"""The processes of a command: how they start, and how a signal stops them."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING, Any

from benchmark.execution import worker

if TYPE_CHECKING:  # Windows has no fork server
    from multiprocessing.context import ForkServerContext, SpawnContext

LOADED = ["timm", "scipy.stats"]
"""Modules that take seconds to import, torch among them. sklearn is left out: its import starts a
thread, and a process with threads cannot be forked safely."""

PATIENCE = 30.0
"""Seconds that workers get to save their checkpoints before they are killed."""


class Stopped(Exception):
    """Ctrl-C or a termination signal; `lines` state what was saved of each running cell."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        super().__init__()
        self.lines = lines


class NotStarted(OSError):
    """No process could be started: the one that forks them has died, or its socket is gone."""


class Signals:
    """Remembers a signal to stop, instead of stopping at once."""

    def __init__(self) -> None:
        self.asked = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            print(
                f"\nstopping: workers get {PATIENCE:.0f} s to end their step and save …",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        self.asked = True

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Ignores Ctrl-C while a process is started, which inherits this.

        A terminal's Ctrl-C reaches every process of the group; workers get their signal from the parent.
        """
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, handler)


class Processes:
    """Starts processes that have torch loaded; this one never loads it."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    @functools.cached_property
    def context(self) -> SpawnContext | ForkServerContext:
        """How they start; made at the first start, as a driver of a cluster starts none."""
        return _context(self.signals)

    def start(
        self,
        target: Callable[..., None],
        *arguments: Any,
        variables: Mapping[str, str] | None = None,
    ) -> tuple[BaseProcess, Connection]:
        """A process that runs `target` with a pipe and the arguments, and this end of the pipe.

        Its environment is the one of this process and `variables`. Raises Stopped if a signal has ended
        the process that workers are forked from, and NotStarted if it ended otherwise.
        """
        try:
            ours, theirs = self.context.Pipe()
            given = (dict(os.environ) | dict(variables or {}), target, theirs, *arguments)
            process = self.context.Process(target=worker.begin, args=given)
            # A forked process inherits from the fork server that Ctrl-C is ignored. The first start
            # waits for the imports of the server: Ctrl-C must reach this process meanwhile.
            forked = self.context.get_start_method() == "forkserver"
            with contextlib.nullcontext() if forked else self.signals.held_back():
                process.start()
        except (EOFError, OSError) as error:
            # A termination of the whole process group ends the fork server.
            if self.signals.asked:
                raise Stopped from None
            raise NotStarted(f"no process can be started: {error}") from error
        theirs.close()
        return process, ours


def _context(signals: Signals) -> SpawnContext | ForkServerContext:
    """How workers start: on Linux they are forked from one process that has imported `LOADED`.

    Elsewhere each worker imports them: macOS's libraries do not survive a fork, and Windows has no fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with signals.held_back():
        forkserver.ensure_running()
    return context


def ending(code: int | None) -> str:
    """How a process ended, from its exit code."""
    if code == -signal.SIGKILL:
        return "signal SIGKILL, which the system sends when memory runs out"
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
