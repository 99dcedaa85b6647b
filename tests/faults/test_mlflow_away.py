"""MLflow locked, deleted or away: one line, results complete, and a later sync catches up."""

from __future__ import annotations

import http.server
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.results import published
from benchmark.tracking import sync
from tests.faults.conftest import Undisturbed
from tests.helpers import forked, tiny

ADDRESS = "http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def made(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every record and table, and an MLflow database of its own with none."""
    root = tmp_path_factory.mktemp("made") / "project"
    shutil.copytree(undisturbed.root, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (root / "results" / "empty").mkdir()
        sync.sync(root, "empty")
        (root / "results" / "empty").rmdir()
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    for name, value in {
        "MLFLOW_TRACKING_URI": None,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(
            name, value
        )
    return tmp_path / "project"


@pytest.fixture
def caught_up(root: Path) -> Callable[[], None]:
    """Checks that results are what they were, and that a sync makes MLflow show every one of them."""
    before = forked.left(root)

    def check() -> None:
        assert forked.left(root) == before
        # In another process, as the next command is: MLflow holds on to a file that is gone.
        done = tiny.run(root, "sync")
        assert done.returncode == 0, done.stderr
        found = sqlite3.connect(root / sync.DATABASE)
        shown = "select value from tags join runs using (run_uuid) where key = 'cell' and {}"
        names = found.execute(shown.format("lifecycle_stage = 'active'")).fetchall()
        found.close()
        records = published.read_all(root, "mini")
        # And one run that has the tables.
        assert len(names) == len(records) + 1
        assert {entry.name for entry in records} < {name for (name,) in names}
        assert forked.left(root) == before

    return check


def test_a_locked_database(
    root: Path, caught_up: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    other = sqlite3.connect(root / sync.DATABASE, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        line = tiny.refusal(capsys, "sync")
    finally:
        other.close()
    assert "database is locked" in line
    caught_up()


@pytest.mark.parametrize(("call", "how"), [("log_batch", "deleted"), ("create_run", "overwritten")])
def test_a_database_that_goes_away_midway(
    root: Path, caught_up: Callable[[], None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, call: str, how: str,
) -> None:  # fmt: skip
    import mlflow

    database, calls = root / sync.DATABASE, 0
    real = getattr(mlflow.MlflowClient, call)

    def gone(self: Any, *given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            database.unlink()
            if how == "overwritten":
                database.write_bytes(b"no database at all" * 1000)
        return real(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, call, gone)
        line = tiny.refusal(capsys, "sync")
    assert calls >= 2
    assert f"MLflow at sqlite:///{database}: " in line
    # A user who reads that it is no database takes it away.
    database.unlink(missing_ok=True)
    caught_up()


@pytest.fixture(params=["hangs up", "fails", "says something else"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that is no use."""

    class Useless(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            if request.param == "hangs up":
                self.connection.close()
                return
            self.send_response(500 if request.param == "fails" else 200)
            self.end_headers()
            self.wfile.write(b"<html>\n<p>hello\n")

        do_GET = do_POST = answer  # the base class's names

        def log_message(self, *given: Any) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Useless)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield ADDRESS.format(port=made.server_port)
    made.shutdown()
    made.server_close()


def test_a_server_that_is_no_use(
    root: Path, caught_up: Callable[[], None], capsys: pytest.CaptureFixture[str], server: str
) -> None:
    assert f"MLflow at {server}: " in tiny.refusal(capsys, "sync", "--uri", server)
    caught_up()


def test_a_stamp_is_written_only_after_a_sync(
    root: Path, caught_up: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the pipeline's note that MLflow is up to date; without it the stage runs again."""
    stamp = root / ".benchmark" / "stamp.json"
    uri = ADDRESS.format(port=9)
    assert "no answer" in tiny.refusal(capsys, "sync", "--stamp", str(stamp), "--uri", uri)
    assert not stamp.exists()
    caught_up()
