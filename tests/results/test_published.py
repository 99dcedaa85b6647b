"""Publishing: the records of an experiment under its names, all of them or none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.planning.cell import Cell
from benchmark.results import published, records
from benchmark.results.records import Store
from tests.helpers import tiny

IMAGES = "0" * 64


@pytest.fixture
def cells() -> list[Cell]:
    return plan.cells(tiny.params(), "leaderboard", None)


@pytest.fixture
def store(tmp_path: Path, cells: list[Cell]) -> Store:
    """A store with every cell."""
    made = Store(tmp_path)
    for number, cell in enumerate(cells):
        put(made, cell, "done", {"metrics": {"pooled.knn5": number / 10}})
    return made


def put(store: Store, cell: Cell, status: str, result: dict[str, Any]) -> None:
    print_ = cell.fingerprint(IMAGES)
    store.put(records.record(cell, print_, IMAGES, {}, status, result), {"host": "here"})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_published_records_read_back_with_names_and_checksums(
    tmp_path: Path, cells: list[Cell], store: Store
) -> None:
    published.publish(cells, IMAGES, store, tmp_path / "out")
    found = {entry.label: entry for entry in published.read(tmp_path / "out")}
    assert set(found) == {cell.label for cell in cells}
    for cell in cells:
        entry = found[cell.label]
        assert entry.name == cell.name
        assert (entry.method, entry.scheme, entry.seed) == (cell.method, cell.scheme, cell.seed)
        assert entry.record == store.record(cell.fingerprint(IMAGES))
        file = tmp_path / "out" / f"{cell.label}.json"
        assert entry.checksum == hashlib.sha256(file.read_bytes()).hexdigest()


def test_publishing_again_gives_the_same_bytes(
    tmp_path: Path, cells: list[Cell], store: Store
) -> None:
    published.publish(cells, IMAGES, store, tmp_path / "one")
    published.publish(list(reversed(cells)), IMAGES, store, tmp_path / "two")
    before = contents(tmp_path / "one")
    assert len(before) == len(cells)
    assert contents(tmp_path / "two") == before
    published.publish(cells, IMAGES, store, tmp_path / "one")
    assert contents(tmp_path / "one") == before


def test_publishing_replaces_the_folder(tmp_path: Path, cells: list[Cell], store: Store) -> None:
    published.publish(cells, IMAGES, store, tmp_path / "out")
    published.publish(cells[:1], IMAGES, store, tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {f"{cells[0].label}.json"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "out",
        "cells",
        "publish.lock",
        "schema",
    }


def test_a_cell_that_was_not_trained_leaves_what_was_published(
    tmp_path: Path, cells: list[Cell], store: Store
) -> None:
    published.publish(cells, IMAGES, store, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(UserError, match="has not been trained"):
        published.publish(cells, "1" * 64, store, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "out",
        "cells",
        "publish.lock",
        "schema",
    }


def test_a_crash_is_published_with_its_cause(
    tmp_path: Path, cells: list[Cell], store: Store
) -> None:
    put(store, cells[0], "crashed", {"metrics": {}, "cause": "struck by lightning"})
    published.publish(cells, IMAGES, store, tmp_path / "out")
    entry = published.read_one(tmp_path / "out" / f"{cells[0].label}.json")
    assert entry.record["status"] == "crashed"
    assert entry.record["result"]["cause"] == "struck by lightning"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"track": "mini"}'])
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    canonical_json.write(tmp_path / "odd.json", text)
    with pytest.raises(UserError, match=r"odd\.json: not a record"):
        published.read(tmp_path)


def test_what_a_killed_publication_leaves_is_not_read(
    tmp_path: Path, cells: list[Cell], store: Store
) -> None:
    """A killed process cannot remove its temporary folder, which stands beside its target."""
    folder = tmp_path / "leaderboard"
    published.publish(cells, IMAGES, store, folder / "simclr")
    (folder / "simclr").rename(folder / ".simclr-k1ll3d")
    put(store, cells[0], "diverged", {"metrics": {}})
    published.publish(cells, IMAGES, store, folder / "simclr")
    assert len(published.read(folder)) == len(cells)
