"""Cells whose networks see a part of larger images, and cells with images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from benchmark.core.errors import UserError
from benchmark.data.build import build
from benchmark.data.load import load
from benchmark.data.manifest import Storage
from benchmark.evaluation.knn import knn_accuracy
from benchmark.execution.cell import run
from benchmark.planning import sizes
from benchmark.planning.cell import Task
from benchmark.results.records import Record, Store
from benchmark.training import network
from tests.helpers import tiny

SEEN = 12
CPU = torch.device("cpu")


def tree(**more: Any) -> dict[str, Any]:
    return tiny.raw() | {"image_size": SEEN} | more


def task(root: Path, label: str, params: dict[str, Any]) -> Task:
    return tiny.cell(label, tree=params).on(tiny.dataset(root))


def trained(root: Path, asked: Task, storage: Storage = "auto") -> Record:
    store = Store(root / f"store-{storage}")
    return run(asked, root / "data/mini", store, CPU, lambda *_: True, storage=storage)


def test_networks_see_the_size_that_is_asked_for(tmp_path: Path) -> None:
    params = tree()
    root = tiny.project(tmp_path / "project", params)
    asked = task(root, "simclr-resnet-bn-s0", params)
    manifest = load(root / "data/mini", ("train",)).manifest
    assert manifest.shape == (1, tiny.SIDE, tiny.SIDE)
    assert network.build(asked.cell, manifest).context.shape == (1, SEEN, SEEN)
    assert [view["size"] for view in asked.cell.config.recipe.views] == [SEEN, SEEN]
    entry = trained(root, asked)
    assert entry.status == "done"
    assert trained(root, asked, "disk").checksum == entry.checksum
    plain = tiny.cell("simclr-resnet-bn-s0").on(tiny.dataset(root))
    assert plain.fingerprint != asked.fingerprint
    assert "image_size" not in plain.cell.config.as_json()


def test_evaluations_take_the_centre(tmp_path: Path) -> None:
    """Of raw pixels, whose accuracy is computed by hand."""
    params = tree()
    root = tiny.project(tmp_path / "project", params)
    asked = task(root, "raw-pixels-pixels-none-s0", params)
    entry = trained(root, asked)
    splits = load(root / "data/mini", ("train", "test"))
    mean, std = splits.manifest.mean[0], splits.manifest.std[0]

    def pixels(name: str) -> tuple[Tensor, Tensor]:
        images = F.center_crop(splits.images[name][:], [SEEN, SEEN]).float() / 255
        return ((images - mean) / std).flatten(1), splits.labels[name]

    spec = asked.cell.config.evaluation
    expected = knn_accuracy(pixels("train"), pixels("test"), spec.knn_k[:1], spec.knn_temperature)
    assert entry.result.metrics[f"pooled.knn{spec.knn_k[0]}"] == pytest.approx(expected[0])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image_size": tiny.SIDE + 1}, "image_size is 17, expected at most the images' 16 pixels"),
        ({"image_size": 0}, "image_size"),
        ({"storage": "ram"}, "storage"),
    ],
)
def test_a_wrong_size_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    asked = tiny.raw() | changed
    root = tiny.project(tmp_path / "project", tiny.raw())

    def planned() -> None:
        cell = tiny.cell("simclr-resnet-bn-s0", tree=asked)
        sizes.check_cells(root, tiny.params(asked), [cell])

    with pytest.raises(UserError, match=said):
        planned()


def test_local_views_are_no_larger_than_global_ones(tmp_path: Path) -> None:
    root = tiny.project(tmp_path / "project")
    for size, said in ((SEEN + 2, "size is 14, expected at most the image_size 12"), (8, None)):
        params = tiny.multi_crop(tree(), "swav", size)
        params["experiments"]["leaderboard"]["methods"] = ["swav"]
        cell = tiny.cell("swav-resnet-bn-s0", tree=params)
        if said is None:
            sizes.check_cells(root, tiny.params(params), [cell])
            continue
        with pytest.raises(UserError, match=said):
            sizes.check_cells(root, tiny.params(params), [cell])


def test_images_without_labels_are_trained_on(tmp_path: Path) -> None:
    params = tiny.raw()
    options = {k: v for k, v in params["data"]["options"].items() if k != "path"}
    params["data"]["options"] = options | {"train": "photos", "evaluate": "images"}
    params["data"]["splits"] = params["data"]["splits"] | {"unlabelled": 1.0}
    root = tmp_path / "project"
    tiny.draw_images(root / "images")
    (root / "photos").mkdir()
    dice = torch.Generator().manual_seed(0)
    count = 50
    for number in range(count):
        pixels = torch.randint(256, (1, tiny.SIDE, tiny.SIDE), dtype=torch.uint8, generator=dice)
        F.to_pil_image(pixels).save(root / "photos" / f"{number}.png")
    # A copy of a labelled image is not trained on twice.
    labelled = next((root / "images").rglob("*.png"))
    (root / "photos" / "copy.png").write_bytes(labelled.read_bytes())
    tiny.write_params(root, params)
    data = params["data"]
    places = {key: str(root / data["options"][key]) for key in ("train", "evaluate")}
    manifest = build(
        "mini", "folder", data["options"] | places, data["splits"], data["seed"], root / "data/mini"
    )
    labelled_images = manifest.splits["train"].count
    assert manifest.splits["unlabelled"].count == count
    assert manifest.splits["unlabelled"].per_class is None
    for label, images in (
        ("simclr-resnet-bn-s0", labelled_images + count),
        ("supervised-resnet-bn-s0", labelled_images),
    ):
        asked = task(root, label, params)
        assert network.build(asked.cell, manifest).context.training_images == images
        # The rate of the supervised cell is one at which it diverges.
        assert trained(root, asked).status == ("done" if images > labelled_images else "diverged")
    # Neighbours are among the images with labels.
    assert sizes.training_images(root, tiny.params(params)) == labelled_images
