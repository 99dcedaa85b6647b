"""Progress of a job and of its running cells: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tqdm import tqdm

from benchmark.core.wording import counted

QUIET = 30.0
"""Seconds without a line in a file or pipe after which each running cell gets one."""


@dataclass
class _Running:
    """The cell of one worker."""

    label: str = ""
    trained: bool = True
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    resumed: float = 0.0
    """Share of the cell's steps that an earlier run had done."""

    @property
    def share(self) -> float:
        """Of the cell's steps that are done."""
        return self.step / self.steps if self.steps else 0.0

    @property
    def phase(self) -> str:
        if not self.steps:
            return "starting" if self.trained else "evaluating"
        if self.step == self.steps:
            return "evaluating"
        return f"step {self.step} of {self.steps}, loss {self.loss:.4g}"


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Shows a line in a terminal until the block ends, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    print("starting: building the networks …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


class Bars(contextlib.ExitStack):
    """One bar for the job and one for each worker; in a file or a pipe one line for each cell.

    The time left is estimated from the steps of this run, without the cells that were already done.
    """

    def __init__(self, total: int, done: int, slots: int) -> None:
        super().__init__()
        self.total, self.done = total, done
        self.begun = self.said = time.monotonic()
        self.worked = 0.0
        """Cells finished in this run, less the shares that earlier runs had done."""
        self.slots = [_Running() for _ in range(slots)]
        self.terminal = sys.stderr.isatty()
        off = not self.terminal
        self.job = self.enter_context(
            tqdm(
                total=total, initial=done, desc="cells", unit="cell", position=0, disable=off,
                dynamic_ncols=True,
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
            )
        )  # fmt: skip
        self.cells = [
            self.enter_context(
                tqdm(
                    total=1, position=place + 1, disable=off, leave=False, dynamic_ncols=True,
                    unit="step", smoothing=0.1,
                )
            )
            for place in range(slots)
        ]  # fmt: skip
        if not self.terminal:
            self._say(f"{counted(total - done, 'cell')} to train, {done} already done")

    def start(self, slot: int, label: str, trained: bool) -> None:
        """A worker starts a cell, which is `trained` or a control; an empty label means no cell."""
        self.slots[slot] = _Running(label, trained)
        self.cells[slot].reset()
        self._show(slot)

    def step(self, slot: int, step: int, steps: int, loss: float) -> None:
        """A worker has done `step` of `steps`."""
        at = self.slots[slot]
        if not at.steps:
            at.resumed = (step - 1) / steps
            self.cells[slot].reset(steps)
            self.cells[slot].initial = step - 1
        at.step, at.steps, at.loss = step, steps, loss
        self.cells[slot].n = step
        self._show(slot)

    def finish(self, slot: int, line: str) -> None:
        """A worker has finished its cell."""
        self.done += 1
        self.worked += 1 - self.slots[slot].resumed
        self.slots[slot] = _Running()
        self.job.set_postfix_str(self._left(), refresh=False)
        self.job.update()
        if not self.terminal:
            self._say(f"[{self.done}/{self.total}] {line} ({self._left()})")

    def note(self, line: str) -> None:
        """Prints a line about the job."""
        if self.terminal:
            tqdm.write(line, file=sys.stderr)
        else:
            self._say(line)

    def tick(self) -> None:
        """Reports the running cells if nothing was reported for QUIET seconds; call it often."""
        if time.monotonic() - self.said < QUIET:
            return
        self.said = time.monotonic()
        if self.terminal:
            self.job.set_postfix_str(self._left())
            return
        for at in self.slots:
            if at.label:
                self._say(f"[{self.done}/{self.total}] {at.label}: {at.phase} ({self._left()})")

    def _show(self, slot: int) -> None:
        """A bar has no numbers before the first step and after the last."""
        at, bar = self.slots[slot], self.cells[slot]
        training = 0 < at.step < at.steps
        bar.bar_format = None if training else "{desc}"
        if training:
            bar.set_postfix_str(f"loss {at.loss:.4g}", refresh=False)
        bar.set_description_str(
            at.label if training or not at.label else f"{at.label}: {at.phase}", refresh=False
        )
        bar.refresh()

    def _left(self) -> str:
        """The time left, from the share of the work that this run has done so far."""
        running = [at for at in self.slots if at.label]
        worked = self.worked + sum(at.share - at.resumed for at in running if at.steps)
        if worked <= 0:
            return "time left not known yet"
        rest = self.total - self.done - sum(at.share for at in running)
        if running and not rest:
            return "evaluation left"
        return f"{_clock((time.monotonic() - self.begun) / worked * rest)} left"

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        self.said = time.monotonic()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
