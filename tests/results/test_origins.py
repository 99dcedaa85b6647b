"""Published records lead to what made them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import parser
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning.cell import Task, tasks
from benchmark.results import origins as published
from benchmark.results import published as collect
from benchmark.results.origins import MARKS, Origin, marks, read
from benchmark.results.records import Record, Result, RunLog
from tests.helpers import tiny

CLEAN = {"commit": "a" * 40, "dirty": False, "lock_sha256": "l", "as_locked": True, "image": None}
LABELS = ("simclr-resnet-bn-s0", "simclr-resnet-none-plain-s0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def log(**program: Any) -> dict[str, Any]:
    return {
        "started": 1_800_000_000.0,
        "wall_seconds": 12.345,
        "energy_joules": None,
        "program": CLEAN | program,
        "machine": {"host": "here", "cpu_vendor": "V"},
        "trace": {"weights": "w"},
    }


def made(root: Path, run_log: dict[str, Any], knn: float = 0.5) -> list[Task]:
    """Two finished cells of one method in the store."""
    found = tasks((tiny.cell(label) for label in LABELS), "images")
    for task in found:
        result = Result(metrics={"pooled.knn5": knn}, curves={})
        tiny.store(root).put(Record.of(task, {}, "done", result), RunLog.model_validate(run_log))
    return found


def publish(root: Path, planned: list[Task]) -> None:
    published.publish(root, planned, tiny.store(root).read(planned), tiny.store(root))


def origins(root: Path) -> dict[str, Origin]:
    return read(root, "mini", "leaderboard")


def test_a_record_leads_to_its_program_and_machine(root: Path) -> None:
    planned = made(root, log())
    publish(root, planned)
    found = origins(root)
    assert tuple(found) == LABELS
    origin = found[LABELS[0]]
    assert origin.program.commit == "a" * 40
    assert origin.machine.host == "here"
    assert origin.started == "2027-01-15T08:00:00+00:00"
    assert origin.used == {"wall_seconds": 12.3, "energy_joules": None}
    assert origin.trace == {"weights": "w"}
    record = tiny.store(root).record(planned[0].fingerprint)
    assert record is not None
    names = {key: getattr(planned[0].cell, key) for key in collect.NAMES}
    named = partial(collect.Published, **names, checksum="any", file=root)
    entry = named(record=record, content=record.checksum)
    assert marks(origin, entry) == ()
    diverged = record.model_copy(update={"status": "diverged"})
    other = named(record=diverged, content=diverged.checksum)
    assert marks(origin, other) == ("unrecorded",)
    assert marks(None, entry) == ("unrecorded",)


def test_two_cells_of_one_program_name_it_once(root: Path) -> None:
    publish(root, made(root, log()))
    (file,) = published.folder(root, "mini", "leaderboard").glob("*.json")
    assert len(json.loads(file.read_text())["makers"]) == 1


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ({}, ()),
        ({"dirty": True}, ("dirty",)),
        ({"as_locked": False}, ("lock mismatch",)),
        ({"commit": None, "dirty": None}, ("unknown commit",)),
        ({"dirty": True, "as_locked": False}, ("dirty", "lock mismatch")),
        ({"reconstructed": True, "dirty": None, "as_locked": None}, ("reconstructed",)),
    ],
)
def test_what_is_said_against_a_program(
    root: Path, program: dict[str, Any], expected: tuple[str, ...]
) -> None:
    publish(root, made(root, log(**program)))
    assert origins(root)[LABELS[0]].marks == expected
    assert set(expected) <= set(MARKS)


def test_making_the_same_record_again_changes_nothing(root: Path) -> None:
    publish(root, made(root, log()))
    (file,) = published.folder(root, "mini", "leaderboard").glob("*.json")
    before = file.read_bytes(), file.stat().st_mtime_ns
    for later in (log(commit="b" * 40), log(dirty=True), {}):
        publish(root, made(root, later))
        assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_a_better_known_origin_takes_the_place_of_a_marked_one(root: Path) -> None:
    publish(root, made(root, log(dirty=True)))
    publish(root, made(root, log(commit="b" * 40)))
    assert origins(root)[LABELS[0]].program.commit == "b" * 40


def test_another_record_has_another_origin(root: Path) -> None:
    publish(root, made(root, log()))
    publish(root, made(root, log(dirty=True), knn=0.6))
    assert origins(root)[LABELS[0]].marks == ("dirty",)


def test_a_record_that_was_adopted_has_the_origin_that_it_has_elsewhere(root: Path) -> None:
    planned = made(root, log())
    publish(root, planned)
    leaderboard = published.folder(root, "mini", "leaderboard")
    leaderboard.rename(leaderboard.with_name("other"))
    made(root, {})
    publish(root, planned)
    assert origins(root)[LABELS[0]].program.commit == "a" * 40


@pytest.mark.parametrize(("own", "other"), [(True, False), (False, True)])
def test_of_two_origins_of_one_record_the_one_with_less_against_it_is_named(
    root: Path, own: bool, other: bool
) -> None:
    publish(root, made(root, log(dirty=other)))
    leaderboard = published.folder(root, "mini", "leaderboard")
    leaderboard.rename(leaderboard.with_name("other"))
    publish(root, made(root, log(dirty=own)))
    assert [origin.marks for origin in origins(root).values()] == [(), ()]


def test_a_record_of_which_nothing_is_known_has_none(root: Path) -> None:
    publish(root, made(root, {}))
    assert origins(root) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"records": {"a": {}}, "makers": []}'])
def test_a_damaged_file_is_named(root: Path, text: str) -> None:
    publish(root, made(root, log()))
    (file,) = published.folder(root, "mini", "leaderboard").glob("*.json")
    file.write_text(text)
    with pytest.raises(UserError, match=r"simclr\.json: damaged"):
        origins(root)


def test_a_row_is_read_back_to_its_commit(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.project(root)
    monkeypatch.chdir(root)
    planned = made(root, log(dirty=True))
    target = collect.folder(root, "mini", "leaderboard", "simclr")
    store = tiny.store(root)
    collect.publish(planned, store.read(planned), store, target)
    publish(root, planned)
    entry = collect.read(target / f"{LABELS[0]}.json")
    line = {"label": LABELS[0], "sha256": entry.checksum, "knn_reestimated": 0.5}
    table = root / "results" / "mini" / "leaderboard.json"
    canonical_json.write(table, canonical_json.pretty({"rows": [{"records": [line]}]}))
    assert parser.main(["provenance", LABELS[0]]) == 0
    said = capsys.readouterr().out
    assert f"commit       {'a' * 40}, CHANGED since" in said
    assert "as the table says" in said
    assert "MARKED       dirty" in said
    assert "host         here" in said
    canonical_json.write(
        table, canonical_json.pretty({"rows": [{"records": [line | {"sha256": "0"}]}]})
    )
    assert parser.main(["provenance", LABELS[0]]) == 1
    assert "the record is not the one that the table lists" in capsys.readouterr().err
    assert "does not list" in tiny.refusal(capsys, "provenance", LABELS[1])
