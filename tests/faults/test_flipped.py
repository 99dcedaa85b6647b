"""One changed byte anywhere is found and named, or recomputed to the same bits."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.core import determinism
from benchmark.core.errors import UserError
from benchmark.data import fetch
from benchmark.data.fetch import DATA_VARIABLE, RemoteFile, locate
from benchmark.data.load import load
from benchmark.data.sources import mini
from benchmark.execution.cell import run
from benchmark.planning.cell import Task
from benchmark.planning.images import dataset_checksum
from benchmark.results import published as collect
from benchmark.results.records import Store
from benchmark.training.checkpoint import load_checkpoint
from benchmark.training.loop import Interrupted, Progress
from tests.faults.conftest import Undisturbed
from tests.helpers import forked, tiny

FLIPS = 200
"""Changed bytes that are tried in each kind of file."""

LABEL = "simclr-resnet-bn-s0"


def flips(file: Path, count: int = FLIPS) -> Iterator[int]:
    """Changes one byte after another, each time restoring the last, and says which it is."""
    whole = file.read_bytes()
    dice = random.Random(file.name)
    try:
        for _ in range(count):
            place = dice.randrange(len(whole))
            file.write_bytes(flipped(whole, place, dice))
            yield place
    finally:
        file.write_bytes(whole)


def flipped(data: bytes, place: int, dice: random.Random) -> bytes:
    return data[:place] + bytes([data[place] ^ dice.randrange(1, 256)]) + data[place + 1 :]


def digit(file: Path, after: str) -> None:
    """Changes one digit of the first number after a text: still a whole file, of another result."""
    text = file.read_text(encoding="utf-8")
    place = next(n for n in range(text.index(after) + len(after), len(text)) if text[n] in "123456")
    file.write_text(text[:place] + str(int(text[place]) + 1) + text[place + 1 :], encoding="utf-8")


@pytest.fixture(scope="module")
def made(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every record and its table; tests change it and put it back."""
    root = tmp_path_factory.mktemp("made") / "project"
    shutil.copytree(undisturbed.root, root)
    return root


@pytest.fixture
def root(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def trained(root: Path) -> Task:
    return tiny.cell(LABEL, tree=forked.tree()).on(tiny.dataset(root))


def one_line(error: UserError) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("name", ["images-00000.npy", "splits.safetensors", "manifest.json"])
def test_images_and_their_manifest(root: Path, name: str) -> None:
    """By who trains, or already by who plans; a space elsewhere in a manifest changes nothing."""
    folder, params = root / "data" / "mini", tiny.params(forked.tree())
    splits = ("train", "validation", "test")
    before = load(folder, splits)
    refusals: list[str] = []
    for place in flips(folder / name):
        try:
            dataset_checksum(root, params)
            after = load(folder, splits)
        except UserError as error:
            refusals.append(one_line(error))
            continue
        assert after.manifest == before.manifest, place
        for split in splits:
            assert same(after.images[split][:], before.images[split][:]), place
            assert same(after.labels[split], before.labels[split]), place
    assert all(str(folder) in line for line in refusals)
    assert all("run `uv run benchmark data mini`" in line for line in refusals)
    assert len(refusals) >= FLIPS * 0.75


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize(
    ("key", "said"), [("mean", "mean"), ("std", "std"), ("count", "shape"), ("size", "options")]
)
def test_numbers_of_a_manifest_that_no_checksum_covers(copy: Path, key: str, said: str) -> None:
    digit(copy / "data" / "mini" / "manifest.json", f'"{key}":')
    folder = copy / "data" / "mini"
    if said == "options":
        with pytest.raises(UserError, match=": options is"):
            dataset_checksum(copy, tiny.params(forked.tree()))
    else:
        with pytest.raises(UserError, match=f": {said} of the split"):
            load(folder, ("train", "validation", "test"))


def test_the_embedded_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mini.safetensors"
    shutil.copy(mini.FILE, file)
    monkeypatch.setattr(mini, "FILE", file)
    for _ in flips(file, 20):
        with pytest.raises(UserError, match="the package is damaged") as error:
            mini.read({}, tmp_path)
        assert str(file) in one_line(error.value)


def test_downloaded_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download is removed, so that the next run fetches it; a user's own file is left alone."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.delenv(fetch.MIRROR_VARIABLE, raising=False)
    content = random.Random(0).randbytes(5000)
    official = RemoteFile("images.gz", hashlib.md5(content).hexdigest())
    cached, own = tmp_path / "cache" / "set" / "images.gz", tmp_path / "own" / "images.gz"
    for file in (cached, own):
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    assert locate("set", official, tmp_path / "cache") == cached
    for _ in flips(cached):
        with pytest.raises(UserError, match=r"expected md5 .*run again to download") as error:
            locate("set", official, tmp_path / "cache")
        assert str(cached) in one_line(error.value)
        assert not cached.exists()
    monkeypatch.setenv(DATA_VARIABLE, str(own.parent))
    for _ in flips(own):
        with pytest.raises(UserError, match="expected md5") as error:
            locate("set", official, tmp_path / "cache")
        assert str(own) in one_line(error.value)
        assert own.exists()


def until(last: int) -> Progress:
    return lambda step, steps, loss: step < last


def test_a_checkpoint(root: Path, tmp_path: Path) -> None:
    """None is gone on from, unless what it holds is unchanged."""
    store, data, device = Store(tmp_path), root / "data" / "mini", determinism.start("cpu")
    task = trained(root)
    with pytest.raises(Interrupted):
        run(task, data, store, device, until(25))
    file = store.checkpoint(task.fingerprint)
    network = torch.nn.Linear(2, 2)
    names = {"loss": torch.zeros(1)}
    found = 0

    def steps() -> int:
        """The steps that would not be done again; a network of another shape is never reached."""
        try:
            return load_checkpoint(
                file, task.fingerprint, network, torch.optim.SGD(network.parameters()), names
            )
        except RuntimeError as error:
            return 25 if "state_dict" in str(error) else -1

    assert steps() == 25
    for _ in flips(file):
        found += steps() == 0
    # The rest: padding of the header, and nothing else.
    assert found >= FLIPS - 5
    # And what is left of such a training is the same as ever.
    for _ in flips(file, 2):
        entry = run(task, data, Store(tmp_path), device, lambda *_: True)
        assert entry == tiny.store(root).record(task.fingerprint)
        shutil.rmtree(tmp_path / "trained")


def test_the_kept_end_of_a_training(root: Path, tmp_path: Path) -> None:
    """It is trained again, and the file is what it was."""
    shutil.copytree(root / ".benchmark", tmp_path / "home")
    store, task = Store(tmp_path / "home"), trained(root)
    kept = store.trained(task.training_key)
    whole = kept.read_bytes()
    kept.write_bytes(flipped(whole, len(whole) // 2, random.Random(0)))
    steps: list[int] = []

    def count(step: int, total: int, loss: torch.Tensor) -> bool:
        steps.append(step)
        return True

    entry = run(task, root / "data" / "mini", store, determinism.start("cpu"), count)
    assert steps
    assert kept.read_bytes() == whole
    assert entry == tiny.store(root).record(task.fingerprint)


@pytest.mark.parametrize("name", ["record.json", "run.json"])
def test_files_of_the_store(root: Path, name: str) -> None:
    store, fingerprint = tiny.store(root), trained(root).fingerprint

    def log(fingerprint: str) -> dict[str, Any]:
        return store.run_log(fingerprint).as_json()

    read: Callable[[str], object] = store.record if name == "record.json" else log
    before, found = read(fingerprint), 0
    assert before
    for place in flips(store.cell_dir(fingerprint) / name):
        after = read(fingerprint)
        found += not after
        assert not after or after == before, place
    assert found == FLIPS


def published(root: Path) -> Path:
    return collect.file_of(trained(root).cell, root)


@pytest.mark.parametrize("second", ["the store", "the table"])
def test_a_published_record(copy: Path, second: str) -> None:
    """By its second copy: the store's, or, in a fresh clone, the checksum in the table."""
    if second == "the table":
        shutil.rmtree(copy / ".benchmark")
    file = published(copy)
    before, refusals = collect.read(file), []
    for place in flips(file):
        try:
            after = collect.read(file)
            collect.read_all(copy, "mini", "leaderboard")
        except UserError as error:
            refusals.append(one_line(error))
            continue
        assert after.name == before.name, place
        assert after.record == before.record, place
    assert all(str(file) in line for line in refusals)
    assert len(refusals) >= FLIPS * (0.75 if second == "the store" else 1)


@pytest.mark.parametrize("verb", ["leaderboard", "sync", "advise"])
def test_a_changed_digit_stops_whoever_reads_it(
    copy: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    file = published(copy)
    digit(file, '"pooled.knn5":')
    table = (copy / "results" / "mini" / "leaderboard.md").read_bytes()
    more = ("--method", "simclr", "--backbone", "resnet") if verb == "advise" else ()
    assert str(file) in tiny.refusal(capsys, verb, *more)
    assert (copy / "results" / "mini" / "leaderboard.md").read_bytes() == table


@pytest.mark.parametrize("store", ["with its store", "fresh"])
def test_train_puts_a_changed_digit_right(copy: Path, store: str) -> None:
    """From the store; in a fresh clone the cell, and no other, is trained again."""
    file = published(copy)
    before = tiny.published(copy)
    digit(file, '"pooled.knn5":')
    if store == "fresh":
        shutil.rmtree(copy / ".benchmark")
    done = tiny.run(copy, "train", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    again = "0 trained, 3" if store != "fresh" else "1 trained, 2"
    assert done.stderr.splitlines()[-1] == f"{again} found done, 0 crashed"
    assert tiny.published(copy) == before
