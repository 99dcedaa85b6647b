"""A user's folder is read whole, with its official splits, or refused with what is in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.data.build import build
from benchmark.data.class_folders import find
from benchmark.data.pool import Pool
from benchmark.data.sources import folder
from tests.helpers.decoded import decoded, load_image


def save(path: Path, suffix: str = ".png") -> Path:
    """Saves an image whose colour depends on its path."""
    path = path.with_suffix(suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    dice = np.random.default_rng(list(os.fsencode(path)))
    Image.fromarray(dice.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, "PNG")
    return path


def fill(root: Path, *folders: str, count: int = 4) -> Path:
    for name in folders:
        for index in range(count):
            save(root / name / str(index))
    return root


def read(root: Path) -> Pool:
    return decoded(
        folder.read(
            registry.complete("source", "folder", {"path": str(root), "size": 8, "channels": 3}),
            root,
        )
    )


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as error:
        read(root)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- split folders


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train", "test"], {"train": 6, "test": 6}),
        (["dataset_test", "dataset_train"], {"train": 6, "test": 6}),
        (["2024-train", "2025-Testing"], {"train": 6, "test": 6}),
        (["val2017", "train2017", "test2017"], {"train": 6, "validation": 6, "test": 6}),
    ],
)
def test_split_folders_are_the_official_splits(
    tmp_path: Path, names: list[str], parts: dict[str, int]
) -> None:
    root = fill(
        tmp_path / "images", *(f"{name}/{kind}" for name in names for kind in "ba"), count=3
    )
    pool = read(root)
    assert pool.classes == ("a", "b")
    assert {name: len(indices) for name, indices in pool.parts.items()} == parts
    for split in parts:
        (name,) = (name for name in names if split[:3] in name.lower())
        first = pool.tensor[pool.parts[split]][0]
        assert torch.equal(first, load_image(root / name / "a/0.png", 8, 3))
        assert pool.labels[pool.parts[split]].tolist() == [0, 0, 0, 1, 1, 1]


def test_official_splits_of_a_folder_are_built(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", "train/a", "train/b", "test/a", "test/b")
    options = {"path": str(root), "size": 8, "channels": 3}
    fractions = {"train": 0.7, "validation": 0.15, "test": 0.15}
    with pytest.raises(UserError, match=r"data\.splits: .* \(train 8, test 8\), found fractions"):
        build("own", "folder", options, fractions, 0, tmp_path / "out")
    numbers = {"train": 6, "validation": 2, "test": 8}
    manifest = build("own", "folder", options, numbers, 0, tmp_path / "out")
    assert manifest.splits["validation"].per_class == {"a": 1, "b": 1}
    assert manifest.splits["test"].per_class == {"a": 4, "b": 4}


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["train/a", "train/b", "val/a", "val/b"], "expected train and test, or train, validation"),
        (["train/a", "test/a", "cats"], "has the folders cats, test, train, of which test, train"),
        (["train/a", "test/a", "testing/a"], "each once and nothing else"),
        (["train_val/a", "test/a"], "train_val are named after splits"),
        (["train", "test"], "expected a folder for each class in .*/train, found none"),
        (["train/a", "test/a"], r"expected at least 2 class folders in .*/train, found 1 \(a\)"),
        (["train/a", "train/b", "test/a", "test/c"], "class 'c' is in .*/test and not in .*/train"),
    ],
)
def test_split_folders_that_do_not_fit_are_refused(
    tmp_path: Path, folders: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        read(fill(tmp_path, *folders))


def test_too_few_images_for_an_official_split(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/a", "train/b", "test/a", "test/b", count=1)
    assert "class 'a': expected at least 2 images in" in refusal(root)
    fill(root, "train/a", "train/b", count=2)
    assert len(read(root).tensor) == 6


@pytest.mark.parametrize("names", [["train", "car", "ship"], ["bullet train", "test tube", "hat"]])
def test_classes_may_have_the_names_of_splits(tmp_path: Path, names: list[str]) -> None:
    assert read(fill(tmp_path, *names)).classes == tuple(sorted(names))


# --- what is left out


def test_links_are_followed(tmp_path: Path) -> None:
    root, other = fill(tmp_path / "images", "a"), fill(tmp_path / "other", "b", "more/deep")
    (root / "b").symlink_to(other / "b")
    (root / "a/more").symlink_to(other / "more")
    (root / "a/5.png").symlink_to(save(tmp_path / "elsewhere"))
    pool = read(root)
    assert pool.labels.tolist() == [0] * 9 + [1] * 4
    expected = load_image(other / "more/deep/3.png", 8, 3)
    assert torch.equal(pool.tensor[8], expected)


@pytest.mark.parametrize("target", [".", "..", "../..", "../b"])
def test_links_in_a_circle_are_refused(tmp_path: Path, target: str) -> None:
    root = fill(tmp_path / "images", "a", "b")
    (root / "a/again").symlink_to(target)
    (root / "b/again").symlink_to("../a")
    assert "a/again" in refusal(root)
    assert "(a link to a folder that it is in)" in refusal(root)


def test_dangling_links_are_named(tmp_path: Path) -> None:
    root = fill(tmp_path, "a", "b")
    for name in ("a/9.png", "a/more", "c", "b/self", "b/notes.txt"):
        (root / name).symlink_to(root / "nowhere")
    (root / "b/.#lock").symlink_to("nowhere")
    assert refusal(root) == (
        f"cannot read {root}/c (a link to nothing: No such file or directory), "
        f"{root}/a/9.png (a link to nothing: No such file or directory), "
        f"{root}/a/more (a link to nothing: No such file or directory) and 2 more: correct, rename "
        "or remove them"
    )


@pytest.mark.parametrize("name", ["", "a", "a/deep", "test"])
def test_unreadable_folders_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A mode would not stop a user who runs tests as root."""
    root = fill(tmp_path, *(["train/a", "test/a"] if name == "test" else ["a", "a/deep", "b"]))
    listed = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == root / name:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refusal(root).startswith(f"cannot read {root / name} (Permission denied): ")


def test_what_is_neither_a_file_nor_a_folder_is_named(tmp_path: Path) -> None:
    root = fill(tmp_path, "a", "b")
    os.mkfifo(root / "a/9.png")
    assert f"{root}/a/9.png (neither a file nor a folder)" in refusal(root)


def test_ignored_files_are_counted(tmp_path: Path) -> None:
    root = fill(tmp_path / "images", "a", "b")
    for name in ("a/x.HEIC", "a/y.heic", "b/z.txt", "b/README", "c.png", ".hidden", "a/.x.txt"):
        (root / name).touch()
    (root / os.fsdecode(b"a/odd.\xff")).touch()
    expected = {
        ".heic": 2,
        ".png outside the class folders": 1,
        ".txt": 1,
        r".\udcff": 1,
        "without a suffix": 1,
    }
    assert find(root).ignored == expected
    options = {"path": str(root), "size": 8, "channels": 3}
    splits = {"train": 4, "validation": 2, "test": 2}
    assert build("own", "folder", options, splits, 0, tmp_path / "out").ignored == expected
    for index in range(3):
        (root / "b" / f"{index}.png").unlink()
    assert refusal(root).endswith(
        r"found 1; ignored files: 1 .\udcff, 2 .heic, 1 .png outside the class folders, 1 .txt, "
        "1 without a suffix"
    )


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".jfif", ".png", ".jpg", ".bmp", ".webp"])
def test_every_image_of_these_suffixes_is_read(tmp_path: Path, suffix: str) -> None:
    for kind in "ab":
        for index in range(3):
            path = save(tmp_path / kind / str(index), suffix)
            form = {".tif": "TIFF", ".tiff": "TIFF", ".jfif": "JPEG"}.get(suffix.lower(), "PNG")
            image = Image.open(path).copy()
            image.save(path, form)
    assert len(read(tmp_path).tensor) == 6


@pytest.mark.parametrize("name", [b"caf\xe9", b"train/caf\xe9"])
def test_a_class_that_is_not_utf_8_is_refused(tmp_path: Path, name: bytes) -> None:
    root = fill(tmp_path, *(["train/a", "train/b", "test/a"] if b"/" in name else ["a", "b"]))
    fill(root, os.fsdecode(name))
    assert refusal(root).startswith(
        f"cannot read {root}/{name[:-1].decode()}\\udce9 (its name is not UTF-8): "
    )
