"""An archive is unpacked once and whole, whatever interrupts it, and nothing leaves its folder."""

from __future__ import annotations

import io
import resource
import signal
import subprocess
import sys
import tarfile
import textwrap
from hashlib import md5
from pathlib import Path

import pytest

from benchmark.core.errors import UserError
from benchmark.data.archives import unpacked, unpacked_files
from benchmark.data.fetch import RemoteFile
from tests.helpers import tiny

CONTENTS = {f"train/{name}": bytes([value]) * 5000 for value, name in enumerate("abc")}


def pack(path: Path, contents: dict[str, bytes], top: str = "set") -> RemoteFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return RemoteFile(path.name, md5(path.read_bytes()).hexdigest())


def found(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFile:
    """An archive that the cache has."""
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    return pack(cache / "set" / "set.tgz", CONTENTS)


def test_an_archive_is_unpacked_once(archive: RemoteFile, cache: Path) -> None:
    root = unpacked("set", archive, ["train"], cache)
    assert found(root) == CONTENTS
    assert names(cache / "set") == ["set", "set.tgz"]
    # The archive is not needed again.
    (cache / "set" / "set.tgz").unlink()
    assert unpacked("set", archive, ["train"], cache) == root


def test_a_folder_that_misses_files_is_unpacked_again(archive: RemoteFile, cache: Path) -> None:
    root = unpacked("set", archive, list(CONTENTS), cache)
    (root / "train" / "b").unlink()
    (root / "of the user").touch()
    assert found(unpacked("set", archive, list(CONTENTS), cache)) == CONTENTS


def test_a_killed_run_leaves_no_folder_that_counts(archive: RemoteFile, cache: Path) -> None:
    """The process kills itself when the second of three files is opened for writing."""
    program = """
        import os, signal, sys, tarfile
        from pathlib import Path
        from benchmark.data.archives import unpacked
        from benchmark.data.fetch import RemoteFile
        whole = tarfile.TarFile.makefile
        def makefile(self, member, path):
            if member.name.endswith("b"):
                os.kill(os.getpid(), signal.SIGKILL)
            whole(self, member, path)
        tarfile.TarFile.makefile = makefile
        unpacked("set", RemoteFile("set.tgz", sys.argv[1]), ["train"], Path(sys.argv[2]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), archive.md5, str(cache)], cwd=tiny.PROJECT
    )
    assert done.returncode == -signal.SIGKILL
    assert found(cache / "set" / "set.part") == {"set/train/a": CONTENTS["train/a"]}
    assert found(unpacked("set", archive, ["train"], cache)) == CONTENTS
    assert not (cache / "set" / "set.part").exists()


def test_a_full_disk_is_one_line(archive: RemoteFile, cache: Path) -> None:
    """A limit on the size of files is to the writer as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError) as error:
            unpacked("set", archive, ["train"], cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder = cache / "set"
    assert str(error.value) == (
        f"{folder / 'set.tgz'}: cannot be unpacked into {folder / 'set'} (File too large)"
    )
    assert names(folder) == ["set.tgz"]
    assert found(unpacked("set", archive, ["train"], cache)) == CONTENTS


@pytest.mark.parametrize("name", ["../../out", "/out"])
def test_no_file_is_written_outside(cache: Path, archive: RemoteFile, name: str) -> None:
    if name.startswith("/"):
        name = str(cache / "out")
    path = cache / "set" / "set.tgz"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(f"set/{name}" if name.startswith(".") else name))
    bad = RemoteFile("set.tgz", md5(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"set\.tgz: cannot be unpacked into") as error:
        unpacked("set", bad, ["train"], cache)
    assert "\n" not in str(error.value)
    assert names(cache) == ["set"]
    assert names(cache / "set") == ["set.tgz"]


@pytest.mark.parametrize("place", ["set", "set/set"])
def test_the_users_folder_is_used_where_it_is(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    root = tmp_path / "data" / place
    for name, content in CONTENTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    nowhere = RemoteFile("set.tgz", "")
    assert unpacked("set", nowhere, list(CONTENTS), cache) == root
    assert not cache.exists()
    (root / "train" / "b").unlink()
    with pytest.raises(UserError) as error:
        unpacked("set", nowhere, list(CONTENTS), cache)
    wanted = ", ".join(CONTENTS)
    assert str(error.value) == f"BENCHMARK_DATA: expected {wanted} in {root}, found no train/b"
    # With the archive beside it nothing is missing.
    archive = pack(tmp_path / "data" / "set" / "set.tgz", CONTENTS)
    assert found(unpacked("set", archive, list(CONTENTS), cache)) == CONTENTS
    assert not (root / "train" / "b").exists()


def test_files_are_compared_with_their_checksums(archive: RemoteFile, cache: Path) -> None:
    files = [RemoteFile(name, md5(content).hexdigest()) for name, content in CONTENTS.items()]
    paths = unpacked_files("set", archive, files, cache)
    assert [path.read_bytes() for path in paths] == list(CONTENTS.values())
    paths[1].write_bytes(b"rotten")
    with pytest.raises(UserError) as error:
        unpacked_files("set", archive, files, cache)
    rotten = md5(b"rotten").hexdigest()
    assert str(error.value) == (
        f"{paths[1]}: expected md5 {files[1].md5}, found {rotten}; remove {cache / 'set' / 'set'} to "
        "take it from the archive"
    )
