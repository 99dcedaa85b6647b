"""Publishing: the records of an experiment under its names, all of them or none."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.planning.cell import Task, tasks
from benchmark.results import published
from benchmark.results.records import Record, Result, RunLog, Status, Store
from tests.helpers import tiny

IMAGES = "0" * 64


@pytest.fixture
def planned() -> list[Task]:
    return tasks(plan.cells(tiny.params(), "leaderboard", None), IMAGES)


@pytest.fixture
def store(tmp_path: Path, planned: list[Task]) -> Store:
    """A store with every cell."""
    made = Store(tmp_path)
    for number, task in enumerate(planned):
        put(made, task, Result(metrics={"pooled.knn5": number / 10}))
    return made


def put(store: Store, task: Task, result: Result, status: Status = "done") -> None:
    store.put(Record.of(task, {}, status, result), RunLog())


def read_in(folder: Path) -> list[published.Published]:
    return [published.read(file) for file in published.files(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_published_records_read_back_with_names_and_checksums(
    tmp_path: Path, planned: list[Task], store: Store
) -> None:
    published.publish(planned, store.read(planned), store, tmp_path / "out")
    found = {entry.label: entry for entry in read_in(tmp_path / "out")}
    assert set(found) == {task.cell.label for task in planned}
    for task in planned:
        cell = task.cell
        entry = found[cell.label]
        assert entry.name == cell.name
        assert (entry.method, entry.scheme, entry.seed) == (cell.method, cell.scheme, cell.seed)
        assert entry.record == store.record(task.fingerprint)
        file = tmp_path / "out" / f"{cell.label}.json"
        assert entry.checksum == hashlib.sha256(file.read_bytes()).hexdigest()


def test_publishing_again_gives_the_same_bytes(
    tmp_path: Path, planned: list[Task], store: Store
) -> None:
    published.publish(planned, store.read(planned), store, tmp_path / "one")
    published.publish(planned[::-1], store.read(planned), store, tmp_path / "two")
    before = contents(tmp_path / "one")
    assert len(before) == len(planned)
    assert contents(tmp_path / "two") == before
    published.publish(planned, store.read(planned), store, tmp_path / "one")
    assert contents(tmp_path / "one") == before


def test_publishing_replaces_the_folder(tmp_path: Path, planned: list[Task], store: Store) -> None:
    published.publish(planned, store.read(planned), store, tmp_path / "out")
    published.publish(planned[:1], store.read(planned), store, tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {f"{planned[0].cell.label}.json"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "out",
        "cells",
        "publish.lock",
        "schema",
    }


def test_a_cell_that_was_not_trained_leaves_what_was_published(
    tmp_path: Path, planned: list[Task], store: Store
) -> None:
    published.publish(planned, store.read(planned), store, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="has not been trained"):
        published.publish(planned, {}, store, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "out",
        "cells",
        "publish.lock",
        "schema",
    }


def test_a_crash_is_published_with_its_cause(
    tmp_path: Path, planned: list[Task], store: Store
) -> None:
    store.put(Record.of_crash(planned[0], {}, "struck by lightning"), RunLog())
    published.publish(planned, store.read(planned), store, tmp_path / "out")
    entry = published.read(tmp_path / "out" / f"{planned[0].cell.label}.json")
    assert entry.record.status == "crashed"
    assert entry.record.result.cause == "struck by lightning"


def test_the_projects_records_are_written_again_byte_for_byte() -> None:
    entries = read_in(tiny.PROJECT / "results" / "mini" / "records")
    assert len(entries) > 100
    for entry in entries:
        assert published.document(entry, entry.record) == entry.file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", ["more", "cell/more", "cell/training/more", "cell/evaluation/more", "result/more"]
)
def test_a_key_that_is_not_known_is_named(
    tmp_path: Path, planned: list[Task], store: Store, path: str
) -> None:
    published.publish(planned, store.read(planned), store, tmp_path / "out")
    file = tmp_path / "out" / f"{planned[0].cell.label}.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    canonical_json.write(file, canonical_json.pretty(tiny.changed(document, f"record/{path}", 1)))
    key = path.replace("/", ".")
    with pytest.raises(UserError, match=rf"^\S+\.json: not a record \({key}: Extra inputs .*\)$"):
        published.read(file)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"track": "mini"}'])
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    canonical_json.write(tmp_path / "odd.json", text)
    with pytest.raises(UserError, match=r"odd\.json: not a record"):
        read_in(tmp_path)


def test_what_a_killed_publication_leaves_is_not_read(
    tmp_path: Path, planned: list[Task], store: Store
) -> None:
    """A killed process cannot remove its temporary folder, which stands beside its target."""
    folder = tmp_path / "leaderboard"
    published.publish(planned, store.read(planned), store, folder / "simclr")
    (folder / "simclr").rename(folder / ".simclr-k1ll3d")
    put(store, planned[0], Result(metrics={}), "diverged")
    published.publish(planned, store.read(planned), store, folder / "simclr")
    assert len(read_in(folder)) == len(planned)
