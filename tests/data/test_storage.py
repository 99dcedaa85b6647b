"""Where images are kept changes neither their bits nor those of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.core.errors import UserError
from benchmark.data import load as loading
from benchmark.data import shards
from benchmark.data.build import build
from benchmark.data.load import check, load
from benchmark.data.manifest import Storage
from benchmark.data.pool import NO_LABEL, Pool
from benchmark.data.shards import Shards
from benchmark.data.sources import fashion_mnist
from benchmark.data.storage import Images, ahead
from benchmark.execution.cell import run
from benchmark.results.records import Store
from tests.helpers import tiny

COUNTS = {"train": 40, "validation": 10, "test": 20, "unlabelled": 15}
EVERY = tuple(COUNTS)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """60 training, 25 test and 16 images without labels; of the last one is a copy of a test image."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (101, 3, 4, 5), np.uint8))
    images[100] = images[70]
    labels = torch.arange(101) % 5
    labels[85:] = NO_LABEL
    sizes = {"train": 60, "test": 25, "unlabelled": 16}
    parts = dict(zip(sizes, torch.arange(101).split(list(sizes.values())), strict=True))
    given = Pool([images[:30], images[30:]], labels, parts, tuple("abcde"))
    monkeypatch.setattr(fashion_mnist, "read", lambda options, cache: given)
    return given


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven images in a shard."""
    monkeypatch.setattr(shards, "BYTES", 7 * 60)


def make(out: Path, **splits: Any) -> None:
    everything = {"train": 40, "validation": 10, "test": 25, "unlabelled": 15}
    build("track", "fashion-mnist", {}, everything | splits, 1, out, out)


def test_shards_hold_the_plain_tensor(pool: Pool, small_shards: None, tmp_path: Path) -> None:
    make(tmp_path / "x")
    assert len(list((tmp_path / "x").glob("images-*.npy"))) == 15
    stored = Shards(tmp_path / "x", 15, (3, 4, 5))
    plain = torch.cat([piece for piece in pool.pieces if isinstance(piece, torch.Tensor)])
    assert stored.shape == plain.shape
    for seed in range(20):
        index = torch.randint(101, (seed,), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(stored.take(index), plain[index])


def test_the_size_of_shards_is_no_part_of_the_data_set(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "one")
    monkeypatch.setattr(shards, "BYTES", 7 * 60)
    make(tmp_path / "many")
    one, many = (load(tmp_path / name, EVERY) for name in ("one", "many"))
    assert one.manifest.sha256 == many.manifest.sha256
    for name in EVERY:
        assert torch.equal(one.images[name][:], many.images[name][:])


@pytest.mark.parametrize("storage", ["auto", "device", "host", "disk"])
def test_every_storage_gives_the_same_batches(
    pool: Pool, small_shards: None, tmp_path: Path, storage: Storage
) -> None:
    make(tmp_path / "x")
    expected = load(tmp_path / "x", EVERY, "device")
    found = load(tmp_path / "x", EVERY, storage)
    for name, count in (COUNTS | {"test": 25}).items():
        own, other = found.images[name], expected.images[name]
        assert len(own) == own.shape[0] == count
        index = torch.randperm(count)[:9]
        assert torch.equal(own[index], other[index])
        assert torch.equal(torch.cat(list(own.split(4))), other[:])
    images, labels = found.trained(labels=False)
    assert torch.equal(
        images[:], torch.cat([expected.images[n][:] for n in ("train", "unlabelled")])
    )
    assert (labels[:40] >= 0).all()
    assert (labels[40:] == NO_LABEL).all()
    images, labels = found.trained(labels=True)
    assert torch.equal(images[:], expected.images["train"][:])


def test_batches_come_in_order_and_no_further_than_asked(tmp_path: Path, pool: Pool) -> None:
    make(tmp_path / "x")
    images = load(tmp_path / "x", ("train",), "disk").images["train"]
    asked: list[int] = []

    def indices() -> Any:
        for number in range(30):
            asked.append(number)
            yield torch.tensor([number, 39 - number])

    batches = ahead(images, indices())
    first = [next(batches) for _ in range(4)]
    assert len(asked) == 6
    batches.close()  # type: ignore[attr-defined]
    whole = images[:]
    for number, batch in enumerate(first):
        assert torch.equal(batch, whole[[number, 39 - number]])


def test_images_without_labels_are_no_copies_of_others(pool: Pool, tmp_path: Path) -> None:
    make(tmp_path / "x", unlabelled=1.0)
    found = load(tmp_path / "x", EVERY)
    assert found.manifest.splits["unlabelled"].count == 15
    assert found.manifest.trained(labels=False) == 55
    with pytest.raises(UserError, match=r"splits.unlabelled: expected at most 15, .* found 16"):
        make(tmp_path / "x", unlabelled=16)
    with pytest.raises(UserError, match=r"splits.unlabelled: expected a number or share"):
        make(tmp_path / "x", unlabelled=None)


def test_statistics_are_of_all_that_is_trained_on(pool: Pool, tmp_path: Path) -> None:
    make(tmp_path / "x")
    found = load(tmp_path / "x", EVERY)
    pixels = found.trained(labels=False)[0][:].double() / 255
    assert found.manifest.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=5.1e-7)
    std = pixels.std((0, 2, 3), correction=0)
    assert found.manifest.std == pytest.approx(std.tolist(), abs=5.1e-7)


def test_large_data_sets_are_compared_once(
    pool: Pool, small_shards: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "CHECKED", 0)
    make(tmp_path / "x")
    load(tmp_path / "x", ("train",), "disk")
    monkeypatch.setattr(loading, "contents", None)  # a second comparison would fail
    load(tmp_path / "x", ("train",), "disk")
    with pytest.raises(TypeError):
        load(tmp_path / "x", ("train", "test"), "disk")
    monkeypatch.undo()
    monkeypatch.setattr(loading, "CHECKED", 0)
    path = tmp_path / "x" / "images-00003.npy"
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="sha256 of the split"):
        load(tmp_path / "x", EVERY, "disk")
    # The same change behind the back of the file's time is found by `--check`.
    raw[-1] ^= 1
    path.write_bytes(raw)
    load(tmp_path / "x", EVERY, "disk")
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert path.stat().st_ino == before.st_ino
    with pytest.raises(UserError, match="sha256 of the split"):
        check(tmp_path / "x")


@pytest.mark.parametrize("storage", ["device", "host", "disk"])
def test_the_bits_of_a_training_run_do_not_depend_on_the_storage(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BYTES", 100 * 16 * 16)
    root = tiny.project(tmp_path / "project")
    task = tiny.cell("simclr-resnet-bn-s0").on(tiny.dataset(root))
    cpu = torch.device("cpu")
    entry = run(
        task, root / "data" / "mini", Store(tmp_path / "store"), cpu, lambda *_: True,
        storage=storage,
    )  # fmt: skip
    plain = run(
        task, root / "data" / "mini", Store(tmp_path / "plain"), cpu, lambda *_: True,
        storage="auto",
    )  # fmt: skip
    assert entry.status == "done"
    assert entry.checksum == plain.checksum


def test_images_of_two_data_sets_are_not_joined() -> None:
    one, two = (
        Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.arange(3), torch.device("cpu"))
        for _ in range(2)
    )
    with pytest.raises(ValueError, match="one data set"):
        one.also(two)
