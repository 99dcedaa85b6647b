"""Image files are stored whole whatever happens meanwhile, and what cannot be read is named."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.core.errors import UserError
from benchmark.data import collect, decode, shards
from benchmark.data.build import build
from benchmark.data.load import load
from benchmark.data.manifest import Manifest
from tests.helpers.decoded import load_image
from tests.helpers.slow import rest_slow

COUNT = 120
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
EACH = 16
"""Images of 24×24 pixels in a shard."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 60 photographs of noise, 200×150 pixels."""
    root = tmp_path_factory.mktemp("photos")
    dice = np.random.default_rng(0)
    for number in range(COUNT):
        path = root / "ab"[number % 2] / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(dice.integers(0, 256, (150, 200, 3), np.uint8)).save(path)
    return root


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shards, and processes for few files; what a test sets is undone after it."""
    for module, name in ((shards, "BYTES"), (collect, "PARALLEL"), (collect, "CHUNK")):
        monkeypatch.setattr(module, name, getattr(module, name))
    small()


def small() -> None:
    shards.BYTES = EACH * 3 * 24 * 24
    collect.PARALLEL, collect.CHUNK = 1, 3


def make(images: Path, out: Path, **options: Any) -> Manifest:
    given = {"path": str(images), "size": 24, "channels": 3, **options}
    return build("own", "folder", given, SHARES, 0, out, out / "cache")


def content(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def begin(images: Path, out: Path) -> None:
    """Builds in a process that is killed."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    small()
    make(images, out)


def test_processes_decode_as_one_does(images: Path, tmp_path: Path) -> None:
    make(images, tmp_path / "many")
    collect.PARALLEL = 10**9
    make(images, tmp_path / "one")
    assert content(tmp_path / "many") == content(tmp_path / "one")
    train = load(tmp_path / "one", ("train",)).images["train"]
    expected = [load_image(path, 24, 3) for path in sorted(images.glob("*/*.jpg"))]
    assert all(any(torch.equal(one, e) for e in expected) for one in train[:10])


@pytest.mark.parametrize("moment", rest_slow([(n,) for n in range(10)], lambda case: case[0] < 3))
def test_a_killed_build_goes_on(
    images: Path, tmp_path: Path, moment: int, capfd: pytest.CaptureFixture[str]
) -> None:
    make(images, tmp_path / "whole")
    out = tmp_path / "killed"
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=begin, args=(images, out))
    process.start()
    notes = tmp_path / ".killed-build"
    wanted = random.Random(moment).randrange(COUNT // EACH)
    deadline = time.monotonic() + 120
    while len(list(notes.glob("images-*.json"))) < wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(random.Random(moment).random() / 20)
    process.kill()
    process.join()
    done = {path: path.stat().st_ino for path in (notes / "set").glob("images-*.npy")}
    if not (out / "manifest.json").exists():
        with pytest.raises(UserError, match="expected a data set"):
            load(out, ("train",))
        assert len(done) >= wanted
    make(images, out)
    assert content(out) == content(tmp_path / "whole")
    for path, inode in done.items():
        assert (out / path.name).stat().st_ino == inode, "made again"


def test_an_unchanged_folder_is_not_decoded_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "images"
    shutil.copytree(images, copy)
    make(copy, tmp_path / "x")
    before = content(tmp_path / "x")
    collect.PARALLEL = 10**9
    with monkeypatch.context() as patched:
        patched.setattr(decode, "store", None)  # a decoded image would fail
        make(copy, tmp_path / "x")
        assert content(tmp_path / "x") == before
        (tmp_path / "x" / "images-00002.npy").unlink()
        with pytest.raises(TypeError):
            make(copy, tmp_path / "x")
    make(copy, tmp_path / "x")
    assert content(tmp_path / "x") == before
    Image.new("RGB", (30, 30)).save(copy / "a" / "000.jpg")
    assert make(copy, tmp_path / "x").sha256 != json.loads(before["manifest.json"])["sha256"]


def test_a_truncated_file_is_named_or_left_out(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "images"
    shutil.copytree(images, copy)
    for name in ("a/010.jpg", "b/101.jpg"):
        (copy / name).write_bytes((copy / name).read_bytes()[:2000])
    (copy / "b/103.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        make(copy, tmp_path / "x")
    assert f"{copy}/a/010.jpg: expected an image, found OSError: image file is truncated" in str(
        error.value
    )
    assert "data.options.skip_unreadable" in str(error.value)
    with pytest.raises(UserError, match=r"b/103\.jpg"):
        make(copy, tmp_path / "x", skip_unreadable=2)
    assert not (tmp_path / "x").exists()
    made = make(copy, tmp_path / "x", skip_unreadable=3)
    assert capsys.readouterr().err.count("left out: ") == 3
    assert made.unreadable == 3
    assert sum(split.count for split in made.splits.values()) == COUNT - 3
    assert made.copies is None
    for name in ("a/010.jpg", "b/101.jpg", "b/103.jpg"):
        (copy / name).unlink()
    assert make(copy, tmp_path / "y").sha256 == made.sha256


def test_a_full_disk_is_one_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect.PARALLEL = 10**9
    make(images, tmp_path / "x")
    before = content(tmp_path / "x")
    written = decode.write

    def full(out: str, offset: int, images: Any) -> bytes:
        if "images-00003" in out:
            raise OSError(errno.ENOSPC, "No space left on device", out)
        return written(out, offset, images)

    monkeypatch.setattr(decode, "write", full)
    with pytest.raises(UserError, match=r"images-00003\.npy.*: No space left on device"):
        make(images, tmp_path / "x", ground="black")
    assert content(tmp_path / "x") == before
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1, 1)
    )
    with pytest.raises(UserError, match=r"expected 0.2 MB free for the images, found 0.0 MB"):
        make(images, tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_a_file_that_has_gone_is_named(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "images"
    shutil.copytree(images, copy)
    listed = collect.collect

    def late(*given: Any) -> collect.Collected:
        (copy / "b/101.jpg").unlink()
        return listed(*given)

    monkeypatch.setattr("benchmark.data.build.collect", late)
    with pytest.raises(UserError) as error:
        make(copy, tmp_path / "x")
    assert str(error.value).startswith(f"{copy}/b/101.jpg: No such file or directory; ")


def test_two_builds_at_once_are_refused(images: Path, tmp_path: Path) -> None:
    import fcntl

    notes = tmp_path / ".x-build"
    notes.mkdir()
    with (notes / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process builds this data set"):
            make(images, tmp_path / "x")
    make(images, tmp_path / "x")


def test_small_images_are_enlarged_and_counted(images: Path, tmp_path: Path) -> None:
    assert make(images, tmp_path / "x").enlarged is None
    shards.BYTES = 1 << 30
    assert make(images, tmp_path / "y", size=151).enlarged == COUNT


def test_random_crops_depend_on_the_name_alone(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 40), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    starts = set()
    for name in map(str, range(200)):
        found, _ = decode.Decoding(10, 1, "random")(str(tmp_path / "wide.png"), name)
        again, _ = decode.Decoding(10, 1, "random")(str(tmp_path / "wide.png"), name)
        assert (found == again).all()
        (start,) = (s for s in range(31) if (pixels[:, s : s + 10] == found[0]).all())
        starts.add(start)
    assert starts == set(range(31))


def test_names_of_files_need_not_be_utf_8(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images/a/000.jpg").rename(tmp_path / "images/a" / os.fsdecode(b"caf\xe9.jpg"))
    assert make(tmp_path / "images", tmp_path / "x", crop="random").splits["train"].count == 72
