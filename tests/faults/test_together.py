"""Two runs at once in one folder: both leave the records of one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmark.planning import plan
from benchmark.planning.cell import tasks
from benchmark.results import published
from benchmark.results.records import Record, Result, RunLog, Store
from tests.faults.conftest import Undisturbed
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


def test_the_real_command_twice(tmp_path: Path, undisturbed: Undisturbed) -> None:
    root = forked.fresh(tmp_path / "project")
    both = [tiny.begin(root, "data") for _ in range(2)]
    try:
        told = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            tiny.end(process)
    # The second one is refused while the first one builds, and builds again after it.
    assert 0 in [process.returncode for process in both]
    assert all(
        process.returncode == 0 or "another process builds this data set" in text
        for process, text in zip(both, told, strict=True)
    )
    said = tiny.at_once(root, *[["train", "--jobs", "1"]] * 2)
    assert not any("Traceback" in text for text in said)
    assert tiny.run(root, "leaderboard").returncode == 0
    assert forked.left(root) == undisturbed.files
