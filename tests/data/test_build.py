"""A data set is built the same everywhere, split as asked, and damage to it is found."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from benchmark.core.errors import UserError
from benchmark.data import copies
from benchmark.data.build import build
from benchmark.data.load import load
from benchmark.data.manifest import Copies, Manifest
from benchmark.data.pool import Pool
from benchmark.data.sources import fashion_mnist
from benchmark.data.split import split

COUNTS = {"train": 40, "validation": 10, "test": 20}
FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def pool_of(labels: list[int], parts: dict[str, list[int]], channels: int = 1) -> Pool:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (len(labels), channels, 4, 5), dtype=np.uint8)
    return Pool(
        images=torch.from_numpy(images),
        labels=torch.tensor(labels),
        parts={name: torch.tensor(indices) for name, indices in parts.items()},
        classes=tuple(f"class {index}" for index in range(max(labels) + 1)),
    )


def official(channels: int = 1) -> Pool:
    """60 training and 25 test images of five classes."""
    parts = {"train": list(range(60)), "test": list(range(60, 85))}
    return pool_of([index % 5 for index in range(85)], parts, channels)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """What the source `fashion-mnist` gives in this test."""
    given = official(channels=2)
    monkeypatch.setattr(fashion_mnist, "read", lambda options, cache: given)
    return given


def make(out: Path, seed: int = 1, **changed: Any) -> Manifest:
    return build("track", "fashion-mnist", {}, COUNTS | changed, seed, out, out / "cache")


# --- splitting


def labels_of(pool: Pool, indices: torch.Tensor) -> list[int]:
    return torch.bincount(pool.labels[indices], minlength=len(pool.classes)).tolist()


def test_official_parts_stay_apart() -> None:
    pool = official()
    chosen = split(pool, COUNTS, seed=1)
    assert {name: len(indices) for name, indices in chosen.items()} == COUNTS
    train, validation, test = (set(chosen[name].tolist()) for name in COUNTS)
    assert train | validation <= set(range(60))
    assert not train & validation
    assert test <= set(range(60, 85))
    assert labels_of(pool, chosen["train"]) == [8] * 5
    assert labels_of(pool, chosen["validation"]) == [2] * 5
    assert labels_of(pool, chosen["test"]) == [4] * 5


def test_seed_decides_and_order_of_parts_does_not() -> None:
    pool = official()
    one, same, other = (split(pool, COUNTS, seed)["train"].tolist() for seed in (1, 1, 2))
    assert one == same != other
    reverse = {name: part.flip(0) for name, part in reversed(pool.parts.items())}
    turned = Pool(pool.tensor, pool.labels, reverse, pool.classes)
    assert split(turned, COUNTS, 1)["train"].tolist() == one


def test_everything_can_be_used() -> None:
    chosen = split(official(), {"train": 50, "validation": 10, "test": 25}, seed=0)
    assert sorted(torch.cat(list(chosen.values())).tolist()) == list(range(85))


@pytest.mark.parametrize("seed", range(20))
def test_uneven_classes_are_all_in_every_split(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(3, 40, 6).tolist()
    labels = [index for index, size in enumerate(sizes) for _ in range(size)]
    pool = pool_of(labels, {"all": list(range(len(labels)))})
    total = len(labels)
    validation, test = (int(random.integers(6, total // 3)) for _ in range(2))
    wanted = {"train": total - validation - test, "validation": validation, "test": test}
    chosen = split(pool, wanted, seed)
    assert {name: len(indices) for name, indices in chosen.items()} == wanted
    assert len(torch.cat(list(chosen.values())).unique()) == total
    for name, count in wanted.items():
        found = labels_of(pool, chosen[name])
        assert min(found) >= 1
        for size, n in zip(sizes, found, strict=True):
            assert abs(n - count * size / total) < 4


def test_fractions_of_each_class() -> None:
    sizes = (20, 3, 7, 100)
    labels = [index for index, size in enumerate(sizes) for _ in range(size)]
    pool = pool_of(labels, {"all": list(range(len(labels)))})
    chosen = split(pool, FRACTIONS, seed=0)
    assert labels_of(pool, chosen["train"]) == [14, 1, 5, 70]
    assert labels_of(pool, chosen["validation"]) == [3, 1, 1, 15]
    assert labels_of(pool, chosen["test"]) == [3, 1, 1, 15]
    tenth = split(pool, {"train": 0.08, "validation": 0.01, "test": 0.01}, seed=0)
    assert labels_of(pool, tenth["train"]) == [1, 1, 1, 8]


def test_preset_parts_are_used_as_they_are() -> None:
    parts = {"train": [3, 0, 1], "validation": [2, 4], "test": [5]}
    pool = pool_of([0, 1, 0, 1, 0, 1], parts)
    chosen = split(pool, {"train": 3, "validation": 2, "test": 1}, seed=0)
    assert [indices.tolist() for indices in chosen.values()] == [[0, 1, 3], [2, 4], [5]]
    with pytest.raises(UserError, match=r"splits.validation: expected 2.*found 1"):
        split(pool, {"train": 3, "validation": 1, "test": 1}, seed=0)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (COUNTS | {"train": 51}, "at most 60.*found 61"),
        (COUNTS | {"test": 26}, "at most 25.*found 26"),
        (COUNTS | {"validation": 4}, r"splits.validation: expected at least 5.*found 4"),
        (FRACTIONS, "expected numbers of images, as the source has an official split"),
    ],
)
def test_wrong_splits_of_an_official_source(splits: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(official(), splits, seed=0)


def test_wrong_splits_of_a_folder() -> None:
    pool = pool_of([0] * 9 + [1] * 2, {"all": list(range(11))})
    for splits in (FRACTIONS, {"train": 4, "validation": 2, "test": 2}):
        with pytest.raises(UserError, match=r"class 'class 1': expected at least 3.*found 2"):
            split(pool, splits, seed=0)


# --- exact copies


def copied(pool: Pool, sources: dict[int, int]) -> Pool:
    """The pool with the pixels of some images (keys) replaced by those of others."""
    images = pool.tensor.clone()
    images[list(sources)] = pool.tensor[list(sources.values())]
    return Pool(images, pool.labels, pool.parts, pool.classes)


def five_times(count: int, classes: int = 2) -> Pool:
    """`count` different images of each class, each of them five times, in the part `all`."""
    labels = [index for index in range(classes) for _ in range(5 * count)]
    pool = pool_of(labels, {"all": list(range(len(labels)))})
    return copied(pool, {index: index // 5 * 5 for index in range(len(labels))})


def counted(pool: Pool, chosen: dict[str, torch.Tensor]) -> Copies:
    found = copies.count(pool, chosen)
    assert found
    return found


@pytest.mark.parametrize("count", [3, 7, 40])
def test_copies_are_kept_in_one_split(count: int) -> None:
    pool = five_times(count)
    chosen = split(pool, FRACTIONS, seed=0)
    assert sorted(torch.cat(list(chosen.values())).tolist()) == list(range(10 * count))
    groups = [set((indices // 5).tolist()) for indices in chosen.values()]
    assert sum(map(len, groups)) == 2 * count
    assert labels_of(pool, chosen["test"]) == [5 * max(1, round(0.15 * count))] * 2
    assert copies.count(pool, chosen) == Copies(
        in_source=8 * count,
        in_several_classes=0,
        within={name: len(indices) * 4 // 5 for name, indices in chosen.items()},
        across={"validation_in_train": 0, "test_in_train": 0, "test_in_validation": 0},
    )


def test_numbers_of_images_leave_copies_out() -> None:
    pool = five_times(10)
    chosen = split(pool, {"train": 10, "validation": 4, "test": 6}, seed=0)
    used = torch.cat(list(chosen.values()))
    assert len(used) == 20
    assert len((used // 5).unique()) == 20
    assert counted(pool, chosen).within == {"train": 0, "validation": 0, "test": 0}
    message = r"at most 20, .*'all' part \(80 more are exact copies, which are left out\), found 21"
    with pytest.raises(UserError, match=message):
        split(pool, {"train": 11, "validation": 4, "test": 6}, seed=0)


def test_copies_alone_are_too_few_images() -> None:
    with pytest.raises(UserError, match=r"class 'class 0': expected at least 3 different.*found 2"):
        split(five_times(2), FRACTIONS, seed=0)


@pytest.mark.parametrize("splits", [FRACTIONS, {"train": 12, "validation": 4, "test": 4}])
@pytest.mark.parametrize("seed", range(5))
def test_an_image_in_two_classes_is_trained_on(splits: Mapping[str, Any], seed: int) -> None:
    pool = copied(pool_of([0, 1] * 10, {"all": list(range(20))}), {1: 0, 5: 4, 11: 10})
    chosen = split(pool, splits, seed)
    assert set(chosen["train"].tolist()) >= {0, 1, 4, 5, 10, 11}
    found = counted(pool, chosen)
    assert found.in_source == found.in_several_classes == found.within["train"] == 3
    assert set(found.across.values()) == {0}


def test_two_classes_of_the_same_images_are_refused() -> None:
    pool = copied(
        pool_of([0, 1] * 10, {"all": list(range(20))}), {i + 1: i for i in range(0, 20, 2)}
    )
    with pytest.raises(UserError, match="'class 0': 10 of its 10 different images are in another"):
        split(pool, FRACTIONS, seed=0)


def test_copies_across_an_official_split_are_counted() -> None:
    """Copies in the training part are kept together; the test part stays as it is."""
    pool = copied(official(), {5: 0, 10: 0, 60: 0, 65: 0, 61: 1, 62: 3})
    splits = {"train": 48, "validation": 5, "test": 25}
    chosen = split(pool, splits, seed=0)
    assert chosen["test"].tolist() == list(range(60, 85))
    found = counted(pool, chosen)
    assert found.in_source == 6
    assert found.in_several_classes == 1
    assert found.within["test"] == 1
    assert found.across["validation_in_train"] == 0
    assert found.across["test_in_train"] + found.across["test_in_validation"] == 4
    preset = Pool(pool.tensor, pool.labels, chosen, pool.classes)
    assert copies.count(preset, split(preset, splits, seed=0)) == found


def test_the_manifest_counts_copies_if_there_are_any(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = copied(official(), {60: 0})
    monkeypatch.setattr(fashion_mnist, "read", lambda options, cache: given)
    everything = {"train": 50, "validation": 10, "test": 25}
    found = build("track", "fashion-mnist", {}, everything, 1, tmp_path, tmp_path)
    assert found.copies
    across = found.copies.across
    assert across["test_in_train"] + across["test_in_validation"] == 1
    assert load(tmp_path, ("test",)).manifest == found
    given = official()
    assert not build("track", "fashion-mnist", {}, everything, 1, tmp_path, tmp_path).copies
    assert b"copies" not in (tmp_path / "manifest.json").read_bytes()


def test_pool_refuses_an_image_in_two_parts() -> None:
    with pytest.raises(ValueError, match="one part at most"):
        pool_of([0, 1], {"train": [0, 1], "test": [1]})


# --- building


def test_files_say_what_the_pool_holds(pool: Pool, tmp_path: Path) -> None:
    made = make(tmp_path)
    text = (tmp_path / "manifest.json").read_bytes()
    manifest = json.loads(text)
    assert Manifest.model_validate(manifest) == made
    assert text == (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "images-00000.npy",
        "manifest.json",
        "splits.safetensors",
    ]
    assert len({entry.stat().st_mode for entry in tmp_path.iterdir()}) == 1
    tensors = load_file(tmp_path / "splits.safetensors")
    stored = np.load(tmp_path / "images-00000.npy")
    assert (stored == pool.tensor.numpy()).all()
    assert manifest["shards"] == 1
    chosen = split(pool, COUNTS, seed=1)
    sums = {}
    for name, count in COUNTS.items():
        images, labels = stored[tensors[f"{name}.index"]], tensors[f"{name}.labels"]
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert (images == pool.tensor.numpy()[chosen[name].numpy()]).all()
        assert (labels == pool.labels.numpy()[chosen[name].numpy()]).all()
        content = images.tobytes() + b"".join(struct.pack("<q", label) for label in labels)
        sums[name] = hashlib.sha256(content).hexdigest()
        assert manifest["splits"][name] == {
            "count": count,
            "per_class": {f"class {index}": count // 5 for index in range(5)},
            "sha256": sums[name],
        }
    canonical = (
        f'{{"test":"{sums["test"]}","train":"{sums["train"]}","validation":"{sums["validation"]}"}}'
    )
    assert manifest["sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert manifest["shape"] == [2, 4, 5]
    assert manifest["source"] == {"name": "fashion-mnist", "version": 1, "options": {}}
    train = stored[tensors["train.index"]].astype(np.float64) / 255
    assert manifest["mean"] == pytest.approx(train.mean((0, 2, 3)).tolist(), abs=5.1e-7)
    assert manifest["std"] == pytest.approx(train.std((0, 2, 3)).tolist(), abs=5.1e-7)
    assert all(value == round(value, 6) for value in manifest["mean"] + manifest["std"])


def content(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_same_bytes_every_time(pool: Pool, tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two")
    make(tmp_path / "other", seed=2)
    make(tmp_path / "other", seed=1)  # over an earlier one
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "other")
    assert make(tmp_path / "two", seed=2).sha256 != make(tmp_path / "two", seed=1).sha256


def folder_of_images(root: Path, names: list[str]) -> Path:
    for name in names:
        value = int(hashlib.md5(name.encode()).hexdigest()[:6], 16)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (value & 255, value >> 8 & 255, value >> 16)
        Image.new("RGB", (9, 7), colour).save(path)
    return root


def test_folder_in_another_place_and_order_gives_the_same_bytes(tmp_path: Path) -> None:
    names = [f"{kind}/{index}.png" for kind in ("owl", "ant") for index in range(20)]
    for place, order in (("here", names), ("there/deep", names[::-1])):
        path = folder_of_images(tmp_path / place, order)
        out = tmp_path / "out" / order[0].replace("/", "-")
        options = {"path": str(path), "size": 4, "channels": 3}
        build("own", "folder", options, FRACTIONS, 3, out, tmp_path)
    first, second = (content(out) for out in (tmp_path / "out").glob("[!.]*"))
    assert first == second
    manifest = json.loads(first["manifest.json"])
    assert manifest["source"]["options"] == {"size": 4, "channels": 3}
    assert manifest["splits"]["validation"]["per_class"] == {"ant": 3, "owl": 3}
    assert str(tmp_path).encode() not in first["manifest.json"] + first["splits.safetensors"]


def test_unknown_source_and_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown source 'fashion'; did you mean 'fashion-mnist'"):
        build("track", "fashion", {}, COUNTS, 0, tmp_path, tmp_path)
    with pytest.raises(UserError, match="option of source folder 'sise'; did you mean 'size'"):
        build("track", "folder", {"sise": 3}, COUNTS, 0, tmp_path, tmp_path)


def test_failed_build_leaves_the_earlier_one(pool: Pool, tmp_path: Path) -> None:
    make(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError):
        make(tmp_path, train=1000)
    assert content(tmp_path) == before


def test_out_that_cannot_be_written(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="expected a folder to write to"):
        make(tmp_path / "file")


# --- loading


def test_load_gives_back_the_splits(pool: Pool, tmp_path: Path) -> None:
    manifest = make(tmp_path)
    splits = load(tmp_path, ("train", "test"))
    chosen = split(pool, COUNTS, seed=1)
    assert splits.manifest == manifest
    assert set(splits.images) == set(splits.labels) == {"train", "test"}
    assert torch.equal(splits.images["test"][:], pool.tensor[chosen["test"]])
    assert torch.equal(splits.labels["train"], pool.labels[chosen["train"]])
    assert load(tmp_path, ()).images == {}
    with pytest.raises(UserError, match="unknown split 'tests'"):
        load(tmp_path, ("tests",))


def test_changed_pixel_is_found_in_its_split_only(pool: Pool, tmp_path: Path) -> None:
    manifest = make(tmp_path)
    path = tmp_path / "images-00000.npy"
    stored = np.load(path)
    stored[load_file(tmp_path / "splits.safetensors")["test.index"][0]] ^= 1
    np.save(path, stored)
    # The test split is not read where nobody asks for it, so that it does not stop anyone.
    load(tmp_path, ("train", "validation"))
    message = (
        "sha256 of the split 'test' is [0-9a-f]{64} in its files and "
        f"{manifest.splits['test'].sha256} in manifest.json; run `uv run benchmark data tr"
    )
    with pytest.raises(UserError, match=message):
        load(tmp_path, ("test",))


def test_manifest_of_another_build_is_found(pool: Pool, tmp_path: Path) -> None:
    make(tmp_path / "one", seed=1)
    make(tmp_path / "two", seed=2)
    (tmp_path / "one" / "manifest.json").replace(tmp_path / "two" / "manifest.json")
    with pytest.raises(UserError, match="sha256 of the split 'train' is"):
        load(tmp_path / "two", ("train",))


def test_changed_manifest_is_found(pool: Pool, tmp_path: Path) -> None:
    made = make(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["splits"]["test"]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"expected sha256 {made.sha256} of the data set"):
        load(tmp_path, ("train",))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1}', '{"format": 1, "sha256": 1}']
)
def test_no_manifest_at_all(pool: Pool, tmp_path: Path, text: str) -> None:
    make(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest.json: expected .*run `uv run benchmark data "):
        load(tmp_path, ("train",))


def test_cut_or_missing_files(pool: Pool, tmp_path: Path) -> None:
    make(tmp_path / "track")
    path = tmp_path / "track" / "splits.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"safetensors: expected .*`uv run benchmark data track`"
        ):
            load(tmp_path / "track", ("train",))
        path.unlink(missing_ok=True)
    (tmp_path / "track" / "manifest.json").unlink()
    with pytest.raises(
        UserError, match=r"manifest.json: expected .*run `uv run benchmark data track`"
    ):
        load(tmp_path / "track", ("train",))
