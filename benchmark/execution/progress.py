"""Progress of a job and of the cells under way: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Bars:
    """One bar for the job and one for each worker; in a file or a pipe one line for each cell.

    The time left is that of the cells finished in this run, so cells found done do not flatter it.
    """

    def __init__(self, total: int, done: int, slots: int) -> None:
        self.total, self.done, self.already = total, done, done
        self.begun = time.monotonic()
        self.terminal = sys.stderr.isatty()
        off = not self.terminal
        self.job = tqdm(
            total=total, initial=done, desc="cells", unit="cell", position=0, disable=off,
            dynamic_ncols=True, smoothing=0,
        )  # fmt: skip
        self.cells = [
            tqdm(total=1, position=place + 1, disable=off, leave=False, dynamic_ncols=True,
                 unit="step", smoothing=0.1)
            for place in range(slots)
        ]  # fmt: skip
        if not self.terminal:
            _say(f"{total - done} cells to train, {done} already done")

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for bar in (*self.cells, self.job):
            bar.close()

    def start(self, slot: int, label: str) -> None:
        """A worker begins a cell; an empty label means it has nothing to do."""
        bar = self.cells[slot]
        bar.set_description_str(label)
        bar.reset()

    def step(self, slot: int, step: int, steps: int) -> None:
        """A worker has come to `step` of `steps`."""
        bar = self.cells[slot]
        bar.total = steps
        bar.n = step
        bar.refresh()

    def finish(self, slot: int, line: str) -> None:
        """A worker is done with its cell."""
        self.done += 1
        self.job.update()
        if self.terminal:
            return
        spent = time.monotonic() - self.begun
        left = spent / (self.done - self.already) * (self.total - self.done)
        _say(f"[{self.done}/{self.total}] {line} ({_clock(left)} left)")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
