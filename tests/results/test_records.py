"""Records are written whole, read back only if they are whole, and the same on every machine."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.results import records
from benchmark.results.records import Record, RunLog, Store
from tests.helpers import tiny

IMAGES = "0" * 64


def entry(status: str = "done", **result: Any) -> Record:
    cell = tiny.cell("simclr-resnet-bn-s0")
    return tiny.record(cell, result, status, IMAGES, {"device": "cpu"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("status", ["done", "diverged", "out-of-memory"])
def test_a_result_is_kept_and_its_checkpoint_goes(store: Store, status: str) -> None:
    made = entry(status)
    checkpoint = store.checkpoint(made.fingerprint)
    canonical_json.write(checkpoint, b"half a training")
    log = RunLog.model_validate({"host": "here", "resumed_at_step": 0})
    store.put(made, log)
    assert store.record(made.fingerprint) == made
    assert store.run_log(made.fingerprint) == log
    assert store.last(made.fingerprint) == made
    assert not checkpoint.exists()


def test_a_store_of_version_1_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    old = tmp_path / ".benchmark" / "cells" / ("0" * 64) / "record.json"
    canonical_json.write_sealed(old, {"schema": 1})
    with pytest.raises(
        UserError, match=r"\.benchmark was made by version 1 .* move it away"
    ) as error:
        records.store(tmp_path)
    assert "\n" not in str(error.value)
    old.unlink()
    assert records.store(tmp_path).schema() is None


def test_a_store_says_which_version_made_it(store: Store) -> None:
    assert store.schema() is None
    store.put(entry(), RunLog())
    assert store.schema() == records.SCHEMA
    (store.folder / "schema").write_text("two")
    with pytest.raises(UserError, match="not a version"):
        store.schema()


def test_a_crash_is_no_result_and_keeps_its_checkpoint(store: Store) -> None:
    made = entry("crashed", cause="struck by lightning")
    checkpoint = store.checkpoint(made.fingerprint)
    canonical_json.write(checkpoint, b"half a training")
    store.put(made, RunLog())
    assert store.record(made.fingerprint) is None
    assert store.last(made.fingerprint) == made
    assert checkpoint.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"schema": 2}',
        b'{"schema": 2, "fingerprint": "HERE", "status": "done"}',
    ],
)
def test_a_damaged_record_counts_as_missing(store: Store, text: bytes) -> None:
    made = entry()
    file = store.cell_dir(made.fingerprint) / "record.json"
    text = text.replace(b"HERE", made.fingerprint.encode())
    try:
        # Under a checksum that is right.
        canonical_json.write_sealed(file, json.loads(text))
    except (ValueError, TypeError):
        canonical_json.write(file, text)
    assert store.record(made.fingerprint) is None
    assert store.last(made.fingerprint) is None


@pytest.mark.parametrize(
    "change",
    [{"schema": 0}, {"fingerprint": "another"}, {"status": "odd"}, {"more": 1}, {"cell": {}}],
    ids=str,
)
def test_a_record_of_something_else_counts_as_missing(store: Store, change: dict[str, Any]) -> None:
    made = entry()
    file = store.cell_dir(made.fingerprint) / "record.json"
    canonical_json.write_sealed(file, made.as_json())
    assert store.record(made.fingerprint) == made
    canonical_json.write_sealed(file, made.as_json() | change)
    assert store.record(made.fingerprint) is None
    assert store.last(made.fingerprint) is None


def test_a_record_cut_short_anywhere_counts_as_missing(store: Store) -> None:
    made = entry()
    file = store.cell_dir(made.fingerprint) / "record.json"
    store.put(made, RunLog())
    whole = file.read_bytes()
    assert store.record(made.fingerprint) == made
    for length in range(0, len(whole) - 2, 97):
        canonical_json.write(file, whole[:length])
        assert store.record(made.fingerprint) is None


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    canonical_json.write(file, "old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            canonical_json.write(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert file.read_text() == "old"
    canonical_json.write(file, "new")
    assert file.read_text() == "new"


def test_equal_records_have_equal_bytes_and_numbers_that_json_lacks_are_refused() -> None:
    made = entry(metrics={"b": 0.1, "a": 1 / 3}).as_json()
    turned = {key: made[key] for key in reversed(made)}
    assert canonical_json.pretty(made) == canonical_json.pretty(turned)
    assert canonical_json.checksum(made) == canonical_json.checksum(turned)
    assert json.loads(canonical_json.pretty(made)) == made
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json.pretty(entry(metrics={"a": float("nan")}).as_json())


def test_the_store_is_outside_what_dvc_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    assert records.store(tmp_path).folder == tmp_path / ".benchmark"
    monkeypatch.setenv("BENCHMARK_HOME", str(tmp_path / "elsewhere"))
    assert records.store(tmp_path).folder == tmp_path / "elsewhere"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BENCHMARK_HOME", "~/elsewhere")
    assert records.store(tmp_path).folder == tmp_path / "elsewhere"
    monkeypatch.setenv("BENCHMARK_HOME", "~nobody-here/elsewhere")
    with pytest.raises(UserError, match=r"^BENCHMARK_HOME is '~nobody-here/elsewhere': "):
        records.store(tmp_path)


def test_a_record_has_no_times_hosts_or_paths(tmp_path: Path) -> None:
    from benchmark.core import determinism
    from benchmark.execution.cell import run

    root = tiny.project(tmp_path / "a project")
    task = tiny.cell("simclr-resnet-bn-s0").on(tiny.dataset(root))
    made = run(
        task, root / "data" / "mini", tiny.store(root), determinism.start("cpu"), lambda *_: True
    )
    text = canonical_json.pretty(made.as_json())
    for private in (str(root), "a project", platform.node(), platform.release(), os.sep):
        # The version of a library may hold a slash or a host's name only by accident.
        assert not private or private not in text, private
    assert not re.search(r"second|time|\bdate|host|started|\b20\d\d-", text)
    log = tiny.store(root).run_log(made.fingerprint)
    assert log.machine is not None
    assert log.machine.host == platform.node()
    assert log.wall_seconds is not None
    assert log.wall_seconds > 0
    assert log.resumed_at_step == 0


@pytest.mark.parametrize("log", [{}, {"wall_seconds": 1.5, "later": [1]}, {"started": "when"}])
def test_a_run_log_of_another_version_is_read_as_far_as_it_can_be(
    store: Store, log: dict[str, Any]
) -> None:
    made = entry()
    store.put(made, RunLog())
    file = store.cell_dir(made.fingerprint) / "run.json"
    canonical_json.write_sealed(file, log)
    found = store.run_log(made.fingerprint)
    assert found.as_json() == ({} if "started" in log else log)
    before = file.read_bytes()
    store.put(made, found)
    assert file.read_bytes() == before or "started" in log
