"""Two runs at once in one folder: both end well, with the records of one."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmark.planning import plan
from benchmark.planning.cell import tasks
from benchmark.results import published
from benchmark.results.records import Record, Result, RunLog, Store
from tests.helpers import forked, tiny

PUBLICATIONS = 60


def test_publications_at_once(tmp_path: Path) -> None:
    """Sixty of them by six at a time, and what a killed one has left."""
    planned = tasks(plan.cells(tiny.params(), "leaderboard", None), "0" * 64)
    store, target = Store(tmp_path), tmp_path / "records" / "simclr"
    for number, task in enumerate(planned):
        result = Result(metrics={"pooled.knn5": number / 10})
        store.put(Record.of(task, {}, "done", result), RunLog())
    left = target.with_name(f".{target.name}-killed")
    (left / "old").mkdir(parents=True)

    def publish(number: int) -> None:
        published.publish(planned, store.read(planned), Store(tmp_path), target)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(publish, range(PUBLICATIONS)))
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert {published.read(file).label for file in published.files(target)} == {
        task.cell.label for task in planned
    }


@pytest.mark.parametrize("verb", ["train"])
def test_the_real_command_twice(tmp_path: Path, verb: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    forked.fresh(one)
    shutil.copytree(one, two)
    both = [tiny.begin(two, "data") for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    both = [tiny.begin(two, verb, "--jobs", "1") for _ in range(2)]
    try:
        said = [process.communicate(timeout=300)[1] for process in both]
    finally:
        for process in both:
            tiny.end(process)
    assert [process.returncode for process in both] == [0, 0], said
    assert not any("Traceback" in text for text in said)
    assert tiny.run(one, "data").returncode == 0
    alone = tiny.run(one, verb, "--jobs", "1")
    assert alone.returncode == 0, alone.stderr
    assert tiny.published(two) == tiny.published(one)
    assert forked.left(two) == forked.left(one)
