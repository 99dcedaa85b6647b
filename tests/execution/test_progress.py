"""What a user sees while cells are trained, with a clock that the tests move."""

from __future__ import annotations

import io

import pytest

from benchmark.execution import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_a_file_gets_a_line_a_minute_of_one_slow_cell(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the step, the loss and the time left of a job of one cell."""
    with progress.Bars(total=1, done=0, slots=1) as bars:
        bars.start(0, "slow", True)
        for second in range(1, 601):
            clock.now += 1
            if second > 100:
                bars.step(0, second - 100, 500, 1 / second)
            bars.tick()
        bars.finish(0, "slow: done")
    first, *lines, last = capsys.readouterr().err.splitlines()
    assert first == "1 cell to train, 0 already done"
    assert len(lines) >= 600 // 60
    assert lines[0] == "[0/1] slow: starting (time left not known yet)"
    assert "[0/1] slow: step 200 of 500, loss 0.003333 (7 min 30 s left)" in lines
    assert lines[-1] == "[0/1] slow: evaluating (evaluation left)"
    assert last == "[1/1] slow: done (0 s left)"


def test_fast_cells_get_a_line_each_and_no_more(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Bars(total=12, done=2, slots=2) as bars:
        for number in range(10):
            bars.start(number % 2, f"cell-{number}", True)
            for step in range(1, 11):
                clock.now += 1
                bars.step(number % 2, step, 10, 1.0)
                bars.tick()
            bars.finish(number % 2, f"cell-{number}: done")
    _, *lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[3/12] cell-0: done (1 min 30 s left)"
    assert lines[-1] == "[12/12] cell-9: done (0 s left)"
    assert len(lines) == 10


def test_what_an_earlier_run_has_done_does_not_flatter_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hundred steps in 100 s, and a hundred to go."""
    with progress.Bars(total=1, done=0, slots=1) as bars:
        bars.start(0, "resumed", True)
        for step in range(801, 901):
            clock.now += 1
            bars.step(0, step, 1000, 1.0)
            bars.tick()
    assert capsys.readouterr().err.splitlines()[-1] == (
        "[0/1] resumed: step 890 of 1000, loss 1 (1 min 50 s left)"
    )


def test_a_cell_that_is_not_trained_is_not_starting(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Bars(total=1, done=0, slots=2) as bars:
        bars.start(0, "raw-pixels", False)
        bars.start(1, "", False)
        clock.now += 60
        bars.tick()
    assert capsys.readouterr().err.splitlines()[1:] == [
        "[0/1] raw-pixels: evaluating (time left not known yet)"
    ]


def test_a_terminal_shows_that_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and until the first step."""
    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    with progress.starting():
        assert "starting" in screen.getvalue()
    with progress.Bars(total=1, done=0, slots=1) as bars:
        bars.start(0, "one", True)
        before = screen.getvalue()
        assert "one: starting" in before
        assert "0/1 step" not in before
        bars.step(0, 3, 50, 0.25)
        assert "3/50" in screen.getvalue()
        assert "loss 0.25" in screen.getvalue()
        bars.step(0, 50, 50, 0.25)
        assert "one: evaluating" in screen.getvalue()


def test_a_refusal_in_a_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.starting():
        pass
    assert capsys.readouterr().err == ""
