"""Files are found or downloaded, whatever the server does, and never used unchecked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.core.errors import UserError
from benchmark.data import download
from benchmark.data.fetch import RemoteFile, local, locate
from tests.helpers.file_server import Handler, Server, serving

CONTENT = bytes(range(256)) * 800
MD5 = hashlib.md5(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9"
"""The discard port, on which nothing answers."""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        running.files["file.bin"] = CONTENT
        yield running


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    monkeypatch.delenv("BENCHMARK_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "PAUSE_S", 0.0)


def remote(*bases: str) -> RemoteFile:
    return RemoteFile("file.bin", MD5, tuple(f"{base}/file.bin" for base in bases))


def test_downloads_once_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    path = locate("set", remote(server.url), tmp_path)
    assert path == tmp_path / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert locate("set", remote(server.url), tmp_path) == path
    assert server.seen == [("/file.bin", None)]
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks = 2
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT
    half, quarter = len(CONTENT) // 2, len(CONTENT) // 4
    asked = [asked for _, asked in server.seen]
    assert asked == [None, f"bytes={half}-", f"bytes={half + quarter}-"]


def test_broken_download_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.breaks, server.ranges = 1, False
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.seen] == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_later_run_resumes_an_earlier_one(server: Server, tmp_path: Path) -> None:
    server.breaks = 100
    with pytest.raises(UserError, match="cannot be downloaded"):
        locate("set", remote(server.url), tmp_path)
    server.breaks = 0
    server.seen.clear()
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == 1
    assert server.seen[0][1] is not None


@pytest.mark.parametrize("piece", [b"not the beginning", CONTENT, CONTENT + b"more", b"\0" * 10**6])
def test_any_piece_left_behind_ends_in_the_right_file(
    server: Server, tmp_path: Path, piece: bytes
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(piece)
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT


def test_another_range_than_asked_for_is_made_good(server: Server, tmp_path: Path) -> None:
    server.breaks, server.shift = 1, 7
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT


def test_server_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.failures = (503, 429)
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == 3


def test_missing_on_one_server_is_had_from_the_next(server: Server, tmp_path: Path) -> None:
    file = RemoteFile("file.bin", MD5, (f"{server.url}/gone", f"{server.url}/file.bin"))
    assert locate("set", file, tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in server.seen] == ["/gone", "/file.bin"]


def test_damaged_download_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.files["file.bin"] = CONTENT[:-1] + b"?"
    found = hashlib.md5(server.files["file.bin"]).hexdigest()
    with pytest.raises(UserError, match=f"file.bin.*expected md5 {MD5}, found {found}"):
        locate("set", remote(server.url), tmp_path)
    assert not list((tmp_path / "set").iterdir())
    server.files["file.bin"] = CONTENT
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT


def test_compressed_file_is_kept_as_it_is(server: Server, tmp_path: Path) -> None:
    class Encoded(Handler):
        def end_headers(self) -> None:
            self.send_header("Content-Encoding", "gzip")
            super().end_headers()

    server.RequestHandlerClass = Encoded
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT


def test_damaged_cache_is_refused_once(server: Server, tmp_path: Path) -> None:
    path = locate("set", remote(server.url), tmp_path)
    path.write_bytes(b"rotten")
    with pytest.raises(UserError, match=f"{MD5}, found {hashlib.md5(b'rotten').hexdigest()}"):
        locate("set", remote(server.url), tmp_path)
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT


def test_no_network_says_which_file_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        locate("set", remote(NOWHERE), tmp_path / "cache")
    message = str(error.value)
    assert "\n" not in message
    for said in ("set/file.bin", str(tmp_path / "cache"), "BENCHMARK_DATA", "ConnectionError"):
        assert said in message
    assert not list(tmp_path.rglob("*.bin*"))


def test_mirror_comes_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCHMARK_MIRROR", f"{server.url}/mirror/")
    server.failures = (404, 404)
    assert locate("set", remote(server.url), tmp_path).read_bytes() == CONTENT
    asked = [path for path, _ in server.seen]
    assert asked == ["/mirror/set/file.bin", "/mirror/file.bin", "/file.bin"]


@pytest.mark.parametrize("place", ["set/file.bin", "file.bin"])
def test_users_folder_comes_before_cache_and_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = tmp_path / "data" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    assert locate("set", remote(NOWHERE), tmp_path / "cache") == path
    assert not (tmp_path / "cache").exists()


def test_users_file_is_checked_and_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"wrong")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    with pytest.raises(UserError, match=f"{MD5}, found {hashlib.md5(b'wrong').hexdigest()}"):
        locate("set", remote(NOWHERE), tmp_path / "cache")
    assert path.read_bytes() == b"wrong"


def test_users_folder_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "typo"))
    with pytest.raises(UserError, match="BENCHMARK_DATA: expected a folder"):
        local("set", remote())
