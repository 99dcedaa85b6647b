"""The embedded images are what their page says they are."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmark.data.build import build
from benchmark.data.mini import make
from benchmark.data.sources import mini


@pytest.fixture(scope="module")
def pool():
    return mini.read({}, Path("unused"))


def test_splits_are_stratified_and_apart(pool):
    assert {name: len(part) for name, part in pool.parts.items()} == {
        "train": 4000, "validation": 1000, "test": 2000,
    }  # fmt: skip
    for name, part in pool.parts.items():
        assert pool.labels[part].bincount().tolist() == [make.COUNTS[name]] * 10
    assert len(pool.tensor.flatten(1).unique(dim=0)) == len(pool.tensor)


def test_raw_pixels_leave_headroom(pool):
    """Plain cosine on the pixels stays under 30 %: the difficulty that the nuisances are there for."""
    bank, query = (
        F.normalize(pool.tensor[pool.parts[name]].flatten(1).double(), dim=1)
        for name in ("train", "validation")
    )
    nearest = (query @ bank.T).topk(20, dim=1).indices
    votes = F.one_hot(pool.labels[pool.parts["train"]][nearest], 10).sum(1)
    accuracy = (votes.argmax(1) == pool.labels[pool.parts["validation"]]).double().mean()
    assert 0.15 < accuracy < 0.30


def test_damage_is_found(monkeypatch, tmp_path):
    damaged = tmp_path / "mini.safetensors"
    raw = bytearray(mini.FILE.read_bytes())
    raw[-1] ^= 1
    damaged.write_bytes(raw)
    monkeypatch.setattr(mini, "FILE", damaged)
    with pytest.raises(mini.UserError, match=f"expected {mini.SHA256}"):
        mini.read({}, tmp_path)


def test_nuisances_keep_shape_and_range_and_differ_by_image():
    images = torch.zeros(3, 1, 28, 28)
    images[:, :, 10:18, 10:18] = 1.0
    made = make.nuisances(images, torch.Generator().manual_seed(0))
    assert made.shape == images.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert (made[0] - made[1]).abs().mean() > 0.05


@pytest.mark.skipif(
    not (Path(os.environ.get("BENCHMARK_DATA", "/none")) / "fashion-mnist").is_dir(),
    reason="needs the official files: BENCHMARK_DATA",
)
def test_the_program_makes_the_shipped_images(pool):
    made = make.make(Path(os.environ["BENCHMARK_DATA"]) / "fashion-mnist")
    for name, part in pool.parts.items():
        assert torch.equal(made[f"{name}.labels"].long(), pool.labels[part])
        gap = (made[f"{name}.images"].int() - pool.tensor[part].int()).abs()
        # Another CPU may round a pixel to the neighbouring grey level.
        assert gap.max() <= 1
        assert (gap > 0).double().mean() < 1e-3


def test_the_manifest_has_the_published_bytes(tmp_path):
    """Those of `data/mini/manifest.json`, whose checksum of the images is in every record."""
    splits = {"train": 4000, "validation": 1000, "test": 2000}
    build("mini", "mini", {}, splits, 0, tmp_path)
    found = hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest()
    assert found == "73df9b8a4a60223c82618282a929b1e084d90813b6f9b4d648677a3fed8b20e9"
