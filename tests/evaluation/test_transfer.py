"""Embeddings of another track's images: their size, channels and statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from benchmark.data.resample import fitted
from benchmark.data.standardise import standardiser
from benchmark.evaluation.evaluate import transfer
from tests.helpers import tiny
from tests.helpers.small import EVALUATION, SIDE, encoder

COUNTS = {"train": 60, "validation": 20, "test": 40}
OURS = tiny.manifest((3, SIDE, SIDE), mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
THEIRS = tiny.manifest((1, 24, 24), mean=(0.5,) * 3, std=(0.05,) * 3)


def others() -> dict[str, tuple[Tensor, Tensor]]:
    """Grey images (24 × 24) of three classes, which differ in their brightness under noise."""
    made = {}
    for seed, (name, count) in enumerate(COUNTS.items()):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        noise = torch.randint(120, (count, 1, 24, 24), dtype=torch.uint8, generator=generator)
        made[name] = noise + 25 * labels.to(torch.uint8)[:, None, None, None], labels
    return made


def scores(statistics: Any) -> dict[str, Any]:
    prepare = standardiser(statistics, torch.device("cpu"))
    shape = (3, SIDE, SIDE)
    return transfer(encoder("resnet", "bn"), "other", others(), shape, EVALUATION, prepare)


def by_hand(image: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """torchvision's resize and normalisation of the images."""
    small = tv.resize(image.float() / 255, [SIDE, SIDE], antialias=True)
    return tv.normalize(small.repeat(1, 3, 1, 1), mean.tolist(), std.tolist())


def test_the_statistics_are_those_of_the_pretraining_data() -> None:
    """scikit-learn's vote of the nearest neighbour, by cosine, among embeddings made by hand."""
    backbone = encoder("resnet", "bn").eval()
    z = {}
    for name, (images, _) in others().items():
        x = by_hand(images, torch.tensor(OURS.mean), torch.tensor(OURS.std))
        with torch.no_grad():
            z[name] = torch.nn.functional.normalize(backbone(x), dim=1).numpy()
    data = others()
    weights = lambda distance: np.exp((1 - distance) / EVALUATION.knn_temperature)  # noqa: E731
    near = EVALUATION.knn_k[0]
    vote = KNeighborsClassifier(near, metric="cosine", algorithm="brute", weights=weights)
    vote.fit(z["train"], data["train"][1].numpy())
    found = scores(OURS)
    expected = vote.score(z["test"], data["test"][1].numpy())
    assert 0.4 < expected < 1
    assert found[f"transfer.other.knn{near}"] == pytest.approx(expected)
    assert set(found) >= {"transfer.other.linear", "transfer.other.linear.validation"}
    assert scores(THEIRS) != found


@pytest.mark.parametrize("side", [(24, 24), (8, 8), (30, 20)])
def test_images_are_resized_and_cropped_as_torchvision_does(side: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *side, generator=torch.Generator().manual_seed(0))
    expected = tv.center_crop(tv.resize(image, [SIDE], antialias=True), [SIDE, SIDE])
    assert torch.allclose(fitted(image, (3, SIDE, SIDE)), expected, atol=1e-6)


def test_channels_are_repeated_or_weighed() -> None:
    image = torch.rand(2, 3, SIDE, SIDE)
    grey = fitted(image, (1, SIDE, SIDE))
    assert torch.allclose(grey, tv.rgb_to_grayscale(image), atol=1e-6)
    assert torch.equal(fitted(grey, (3, SIDE, SIDE)), grey.repeat(1, 3, 1, 1))
    assert torch.equal(fitted(image, (3, SIDE, SIDE)), image)
