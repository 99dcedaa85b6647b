"""What `benchmark data` prints about a user's images, and what it refuses."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.cli import parser
from benchmark.core import determinism
from benchmark.core.errors import UserError
from benchmark.data.standardise import standardiser
from benchmark.execution.cell import run
from benchmark.planning.images import dataset_checksum
from tests.helpers import tiny

FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, a project without images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_DATA", raising=False)
    return tmp_path


def noise(path: Path, seed: int, side: int = 8) -> np.ndarray:
    """Saves an image of noise and returns its pixels (side, side, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def params(root: Path, splits: dict[str, Any], size: int = 8, channels: int = 3) -> dict[str, Any]:
    """Writes the params of a project whose images are in `images`."""
    tree = tiny.raw()
    tree["data"]["options"] |= {"size": size, "channels": channels}
    tree["data"]["splits"] = splits
    tree["training"]["batch_size"] = 4
    tree["evaluation"]["precise_bn_batch_size"] = 4
    tiny.write_params(root, tree)
    return tree


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that `benchmark data` prints."""
    capsys.readouterr()
    code = parser.main(["data"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out.splitlines()


def manifest(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "data/mini/manifest.json").read_text(encoding="utf-8")))


def test_classes_and_their_counts_are_printed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("cats", 40), ("owls", 10)):
        for index in range(count):
            noise(here / "images" / name / f"{index}.png", seed=count * 100 + index)
    params(here, FRACTIONS)
    assert printed(capsys) == [
        f"mini: train 35, validation 8, test 7; sha256 {manifest(here)['sha256']}",
        "class                       train  validation   test",
        "cats                           28           6      6",
        "owls                            7           2      1",
        "share of the largest class  80.0%       75.0%  85.7%",
    ]


def test_exact_copies_are_printed_and_kept_together(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate("ab"):
        for index in range(20):
            for copy in range(5):
                noise(here / "images" / name / f"{index}-{copy}.png", seed=100 * number + index)
    noise(here / "images/b/0.png", seed=0)
    params(here, FRACTIONS)
    assert printed(capsys)[5:] == [
        "exact copies in the source: 161",
        "  within splits: train 113, validation 24, test 24",
        "  across splits: validation in train 0, test in train 0, test in validation 0",
        "different images in several classes: 1",
    ]
    assert manifest(here)["copies"]["in_source"] == 161


def test_ignored_files_are_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        noise(here / "images" / "ab"[number % 2] / f"{number}.png", seed=number)
    for name in ("a/1.heic", "a/2.heic", "b/notes.txt"):
        (here / "images" / name).touch()
    params(here, FRACTIONS)
    assert printed(capsys)[5:] == ["ignored files: 2 .heic, 1 .txt"]


@pytest.mark.parametrize(("most", "dark"), [(4095, True), (65535, False)])
def test_images_of_few_grey_levels_are_reported(
    here: Path, capsys: pytest.CaptureFixture[str], most: int, dark: bool
) -> None:
    dice = np.random.default_rng(0)
    for number in range(8):
        path = here / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, most + 1, (8, 8), dtype=np.uint16)).save(path)
    params(here, FRACTIONS, channels=1)
    assert any(line.startswith("images are almost black") for line in printed(capsys)) == dark


def test_a_wrong_key_is_named_with_its_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = params(here, FRACTIONS)
    assert tiny.refusal(capsys, "data") == (
        "benchmark: params.yaml: data.options.path is 'images': expected the folder with the class "
        f"folders, found none at {here}/images"
    )
    other = here / "tracks" / "other"
    other.mkdir(parents=True)
    tiny.write_params(other, tree | {"track": "other"})
    assert "tracks/other/params.yaml: data.options.path" in tiny.refusal(capsys, "data", "other")
    for number in range(8):
        noise(here / "images" / "ab"[number % 2] / f"{number}.png", seed=number)
    params(here, {"train": 5, "validation": 2, "test": 2})
    assert "params.yaml: data.splits: expected train + " in tiny.refusal(capsys, "data")
    (here / "images/a/0.png").write_text("no image")
    assert "benchmark: images/a/0.png: expected an image" in tiny.refusal(capsys, "data")


def test_images_built_by_an_earlier_version_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And options at their defaults are in no manifest."""
    for number in range(8):
        noise(here / "images" / "ab"[number % 2] / f"{number}.png", seed=number)
    tree = params(here, FRACTIONS)
    printed(capsys)
    assert manifest(here)["source"]["options"] == {"size": 8, "channels": 3}
    checksum = dataset_checksum(here, tiny.params(tree))
    assert checksum == manifest(here)["sha256"]
    tree["data"]["options"]["max_megapixels"] = 500
    assert dataset_checksum(here, tiny.params(tree)) == checksum
    tree["data"]["options"]["ground"] = "black"
    with pytest.raises(UserError, match=r"params ask for .*'ground': 'black'"):
        dataset_checksum(here, tiny.params(tree))
    path = here / "data/mini/manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    line = tiny.refusal(capsys, "train")
    assert line.endswith("version is 1, params ask for 2; run `uv run benchmark data mini`")


def test_a_terminal_without_the_letters_of_a_class(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("猫", "owls")):
        for index in range(4):
            noise(here / "images" / name / f"{index}.png", seed=4 * number + index)
    params(here, FRACTIONS)
    terminal = io.TextIOWrapper(io.BytesIO(), "latin-1", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert parser.main(["data"]) == 0
    assert rb"\u732b" in terminal.buffer.getvalue()


def test_a_constant_channel_is_reported_and_trains(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.draw_images(here / "images")
    for path in (here / "images").rglob("*.png"):
        grey = np.asarray(Image.open(path))
        Image.fromarray(np.stack([grey, grey, 0 * grey], 2)).save(path)
    tree = params(here, tiny.COUNTS, tiny.SIDE)
    assert [line for line in printed(capsys) if line.startswith("channel")] == [
        "channel 2 (blue) is constant in the training split: it is divided by 1 instead of its "
        "standard deviation of 0"
    ]
    assert manifest(here)["std"][2] == 0
    for label in ("simclr-resnet-bn-s0", "raw-pixels-pixels-none-s0"):
        task = tiny.cell(label, tree=tree).on(manifest(here)["sha256"])
        record = run(
            task, here / "data/mini", tiny.store(here), determinism.start("cpu"), lambda *_: True
        )
        assert record.status == "done"
        assert record.result.metrics["pooled.knn20"] > 0.5


def test_a_constant_channel_is_standardised_to_zero() -> None:
    standardise = standardiser(tiny.manifest(mean=(0.5, 0.25), std=(0.5, 0.0)), torch.device("cpu"))
    images = torch.tensor([0.0, 1.0, 0.25, 0.25]).view(1, 2, 1, 2)
    assert standardise(images).flatten().tolist() == [-1.0, 1.0, 0.0, 0.0]
