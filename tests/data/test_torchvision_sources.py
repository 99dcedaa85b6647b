"""Sources whose official files torchvision reads, too: CIFAR-100, STL-10 and SVHN, made small."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import md5
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.data import build, download
from benchmark.data.fetch import RemoteFile
from benchmark.data.load import load
from benchmark.data.pool import Pool
from benchmark.data.sources import cifar100, stl10, svhn
from tests.helpers.file_server import Server, serving

OFFICIAL = os.environ.get("BENCHMARK_DATA")
official = pytest.mark.skipif(not OFFICIAL, reason="BENCHMARK_DATA names no official files")
RANDOM = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def read(source: str, cache: Path, **options: Any) -> Pool:
    """The source's images with the options that params may give."""
    complete = registry.complete("source", source, options)
    return registry.load("source", source).read(complete, cache)


def everything(pool: Pool) -> torch.Tensor:
    return pool.tensor.clone()


# --- the official files, made small


def pickled(fine: list[int], coarse: list[int]) -> bytes:
    """A file of CIFAR-100 as its authors wrote it, with Python 2."""
    entry = {"data": pixels(len(fine), 3072), "fine_labels": fine, "coarse_labels": coarse}
    return pickle.dumps({**entry, "batch_label": "", "filenames": ["x.png"] * len(fine)}, 2)


def cifar100_files() -> dict[str, bytes]:
    names = {
        "fine_label_names": [f"fine {number}" for number in range(100)],
        "coarse_label_names": [f"coarse {number}" for number in range(20)],
    }
    return {
        "train": pickled([0, 99, 50, 7, 7], [0, 19, 10, 1, 1]),
        "test": pickled([99, 0], [19, 0]),
        "meta": pickle.dumps(names, 2),
    }


def stl10_files() -> dict[str, bytes]:
    sizes = {"train": 6, "test": 4, "unlabeled": 5}
    images = {f"{part}_X.bin": pixels(n, 3, 96, 96).tobytes() for part, n in sizes.items()}
    labels = {"train_y.bin": bytes([1, 2, 10, 3, 3, 1]), "test_y.bin": bytes([10, 1, 5, 5])}
    return images | labels


@dataclass
class Made:
    """Official files of a source, made small, and the source's module with their checksums."""

    module: Any
    torchvisions: Any
    files: dict[str, bytes]

    @property
    def name(self) -> str:
        return self.module.COMPONENT["name"]

    def unpack(self, root: Path) -> Path:
        folder = root / self.module.FOLDER
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder

    def archive(self, tmp_path: Path) -> bytes:
        """The archive's bytes; the source expects their checksum from now on."""
        folder = self.unpack(tmp_path / "packed")
        with tarfile.open(tmp_path / "packed.tgz", "w:gz") as tar:
            tar.add(folder, folder.name)
        content = (tmp_path / "packed.tgz").read_bytes()
        self.module.ARCHIVE = replace(self.module.ARCHIVE, md5=md5(content).hexdigest())
        return content


def remote(files: Mapping[str, bytes], expected: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(f.path, md5(files[f.path]).hexdigest()) for f in expected)


@pytest.fixture(params=["cifar100", "stl10"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Made:
    module: Any
    module, theirs = {
        "cifar100": (cifar100, datasets.CIFAR100),
        "stl10": (stl10, datasets.STL10),
    }[request.param]
    files = cifar100_files() if module is cifar100 else stl10_files()
    # What torchvision expects of the official files is what we do.
    ours = [file for name in ("FILES", "IMAGES", "LABELS") for file in getattr(module, name, ())]
    meta = [(theirs.meta["filename"], theirs.meta["md5"])] if module is cifar100 else []
    assert {(file.path, file.md5) for file in ours} == {
        tuple(entry) for entry in [*theirs.train_list, *theirs.test_list, *meta]
    }
    assert RemoteFile(theirs.filename, theirs.tgz_md5, (theirs.url,)) == module.ARCHIVE
    assert theirs.base_folder == module.FOLDER

    for name in ("FILES", "IMAGES", "LABELS"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, remote(files, getattr(module, name)))
    monkeypatch.setattr(module, "ARCHIVE", module.ARCHIVE)
    for lists in ("train_list", "test_list"):
        known = [[name, md5(files[name]).hexdigest()] for name, _ in getattr(theirs, lists)]
        monkeypatch.setattr(theirs, lists, known)
    if meta:
        checksum = md5(files["meta"]).hexdigest()
        monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": checksum})
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    monkeypatch.delenv("BENCHMARK_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    return Made(module, theirs, files)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def check(pool: Pool, made: Made, root: Path) -> None:
    """Images and labels are those that torchvision reads from the same files."""
    if made.name == "cifar100":
        parts = {
            "train": made.torchvisions(root, train=True),
            "test": made.torchvisions(root, train=False),
        }
        assert list(pool.classes) == parts["train"].classes
    else:
        splits = {"train": "train", "test": "test", "unlabelled": "unlabeled"}
        parts = {name: made.torchvisions(root, split) for name, split in splits.items()}
    assert list(pool.parts) == list(parts)
    for name, theirs in parts.items():
        images = everything(pool)[pool.parts[name]].permute(0, 2, 3, 1).numpy()
        labels = pool.labels[pool.parts[name]].tolist()
        assert len(images) == len(labels) == len(theirs) > 1
        for ours, label, (image, target) in zip(images, labels, theirs, strict=True):
            assert (ours == np.asarray(image)).all()
            assert label == target


# --- CIFAR-100 and STL-10: one archive each


def test_from_unpacked_files(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.unpack(tmp_path / "data")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    check(read(made.name, tmp_path / "cache"), made, tmp_path / "data")
    assert not (tmp_path / "cache").exists()


def test_from_the_users_archive(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = made.archive(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / made.module.ARCHIVE.path).write_bytes(content)
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    check(read(made.name, tmp_path / "cache"), made, tmp_path / "packed")


def test_from_a_torn_download(made: Made, tmp_path: Path, server: Server) -> None:
    content = made.archive(tmp_path)
    server.files["archive"] = content
    made.module.ARCHIVE = replace(made.module.ARCHIVE, urls=(f"{server.url}/archive",))
    server.breaks = 100
    with pytest.raises(UserError, match=f"{made.module.ARCHIVE.path} .* cannot be downloaded"):
        read(made.name, tmp_path / "cache")
    # The next run resumes, is torn once more, and resumes again.
    server.breaks = 1
    server.seen.clear()
    check(read(made.name, tmp_path / "cache"), made, tmp_path / "packed")
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for _, asked in server.seen if asked]
    assert len(starts) == len(server.seen) == 2
    assert 0 < starts[0] < starts[1] < len(content)
    # A further run needs neither server nor archive.
    (tmp_path / "cache" / made.module.FOLDER / made.module.ARCHIVE.path).unlink()
    check(read(made.name, tmp_path / "cache"), made, tmp_path / "packed")
    assert len(server.seen) == 2


def test_another_archive_is_refused(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.archive(tmp_path)
    path = tmp_path / "data" / made.module.ARCHIVE.path
    path.parent.mkdir()
    path.write_bytes(b"other")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    found = md5(b"other").hexdigest()
    with pytest.raises(UserError, match=rf"{path.name}: expected md5 \w+, found {found}$"):
        read(made.name, tmp_path / "cache")


def test_a_damaged_or_missing_file_is_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made.unpack(tmp_path / "data")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    *_, last = made.files
    (folder / last).write_bytes(b"damaged")
    found = md5(b"damaged").hexdigest()
    with pytest.raises(UserError, match=rf"{last}: expected md5 \w+, found {found}; remove"):
        read(made.name, tmp_path / "cache")
    (folder / last).unlink()
    with pytest.raises(UserError, match=f"expected .* in {folder}, found no {last}$"):
        read(made.name, tmp_path / "cache")


@pytest.mark.parametrize("made", ["cifar100"], indirect=True)
def test_coarse_labels(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.unpack(tmp_path / "data")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    pool = read("cifar100", tmp_path, labels="coarse")
    assert pool.labels.tolist() == [0, 19, 10, 1, 1, 19, 0]
    assert pool.classes[19] == "coarse 19"
    assert len(pool.classes) == 20


@pytest.mark.parametrize("made", ["stl10"], indirect=True)
def test_unlabelled_images_stay_in_their_file(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.unpack(tmp_path / "data")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    pool = read("stl10", tmp_path)
    before = everything(pool)
    mapped = Path("/proc/self/maps").read_text(encoding="ascii")
    for name in ("train_X.bin", "test_X.bin", "unlabeled_X.bin"):
        assert name in mapped
    # What is written to the tensor is not written to the file.
    last = pool.pieces[-1]
    assert isinstance(last, torch.Tensor)
    last[:] = 0
    assert not torch.equal(everything(pool), before)
    assert torch.equal(everything(read("stl10", tmp_path)), before)


@pytest.mark.parametrize("made", ["stl10"], indirect=True)
def test_labelled_splits_of_stl10_are_built(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(20, dtype=np.uint8) % 10 + 1
    files = {
        "train_X.bin": pixels(20, 3, 96, 96).tobytes(),
        "train_y.bin": labels.tobytes(),
        "test_X.bin": pixels(10, 3, 96, 96).tobytes(),
        "test_y.bin": labels[:10].tobytes(),
    }
    made.files |= files
    for name in ("IMAGES", "LABELS"):
        monkeypatch.setattr(made.module, name, remote(made.files, getattr(made.module, name)))
    made.unpack(tmp_path / "data")
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    counts = {"train": 10, "validation": 10, "test": 10, "unlabelled": 1.0}
    manifest = build.build("stl10", "stl10", {}, counts, 0, tmp_path / "out", tmp_path)
    built = load(tmp_path / "out", list(counts))
    assert manifest.shape == (3, 96, 96)
    columns = np.frombuffer(files["test_X.bin"], np.uint8).reshape(10, 3, 96, 96)
    assert (built.images["test"][:].numpy() == columns.transpose(0, 1, 3, 2)).all()
    assert built.labels["test"].tolist() == list(range(10))
    together = torch.cat([built.images["train"][:], built.images["validation"][:]])
    columns = np.frombuffer(files["train_X.bin"], np.uint8).reshape(20, 3, 96, 96)
    expected = {image.tobytes() for image in columns.transpose(0, 1, 3, 2)}
    assert {image.numpy().tobytes() for image in together} == expected


# --- SVHN: a file for each part


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Path]:
    """Three small files in MATLAB's format; both libraries expect their checksums."""
    expected = {name: checksum for _, name, checksum in datasets.SVHN.split_list.values()}
    assert expected == svhn.CHECKSUMS
    addresses = {name: url for url, name, _ in datasets.SVHN.split_list.values()}
    assert addresses == {name: f"{svhn.BASE}/{name}" for name in expected}
    labels = {"train": [10, 1, 9], "test": [5, 10], "extra": [2, 3, 10, 4]}
    paths, lists = {}, {}
    for part, values in labels.items():
        paths[part] = tmp_path / "data" / "svhn" / f"{part}_32x32.mat"
        paths[part].parent.mkdir(parents=True, exist_ok=True)
        content = {"X": pixels(32, 32, 3, len(values)), "y": np.array([values], np.uint8).T}
        savemat(paths[part], content, do_compression=True)
        checksum = md5(paths[part].read_bytes()).hexdigest()
        monkeypatch.setitem(svhn.CHECKSUMS, paths[part].name, checksum)
        lists[part] = ["", paths[part].name, checksum]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path / "data"))
    return paths


@pytest.mark.parametrize("extra", [False, True])
def test_svhn_is_as_torchvision_reads_it(
    digits: dict[str, Path], tmp_path: Path, extra: bool
) -> None:
    pool = read("svhn", tmp_path, extra=extra)
    parts = {"train": ["train", "extra"] if extra else ["train"], "test": ["test"]}
    assert list(pool.parts) == ["train", "test"]
    for name, splits in parts.items():
        theirs = [datasets.SVHN(digits["train"].parent, split) for split in splits]
        expected = np.concatenate([split.data for split in theirs])
        assert (everything(pool)[pool.parts[name]].numpy() == expected).all()
        labels = np.concatenate([split.labels for split in theirs])
        assert pool.labels[pool.parts[name]].tolist() == labels.tolist()
    assert pool.classes[int(pool.labels[0])] == "0"


def test_extra_images_of_svhn_are_not_read_unasked(digits: dict[str, Path], tmp_path: Path) -> None:
    digits["extra"].unlink()
    assert len(read("svhn", tmp_path).labels) == 5


def test_svhn_files_that_are_missing_or_damaged(
    digits: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setattr(svhn, "BASE", server.url)
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")
    content = digits["test"].read_bytes()
    digits["test"].unlink()
    with pytest.raises(UserError, match=r"svhn/test_32x32\.mat is not in BENCHMARK_DATA"):
        read("svhn", tmp_path / "cache")
    server.files["test_32x32.mat"] = content
    server.breaks = 1
    assert read("svhn", tmp_path / "cache").labels.tolist() == [0, 1, 9, 5, 0]
    digits["train"].write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"train_32x32\.mat: expected md5 \w+, found \w+$"):
        read("svhn", tmp_path / "cache")


# --- the real files


@official
@pytest.mark.parametrize(
    ("module", "counts"),
    [
        (cifar100, {"train": 50_000, "test": 10_000}),
        (stl10, {"train": 5_000, "test": 8_000, "unlabelled": 100_000}),
        (svhn, {"train": 73_257, "test": 26_032}),
    ],
)
def test_official_files(module: ModuleType, counts: dict[str, int], tmp_path: Path) -> None:
    if not any(Path(OFFICIAL or "").glob(f"{module.FOLDER}*")):
        pytest.skip(f"BENCHMARK_DATA has no {module.FOLDER}")
    pool = read(module.COMPONENT["name"], tmp_path)
    assert {name: len(part) for name, part in pool.parts.items()} == counts
