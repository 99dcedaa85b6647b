"""Accuracies by statistics and split, and the modes that they are taken in."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.diagnostics.frozen import (
    batch_statistics,
    grouping,
    population_statistics,
    training_mode,
)
from benchmark.diagnostics.three_way import KEYS, three_way
from benchmark.norms.history import HistoryBatchNorm
from tests.helpers.diagnosed import splits, standardise
from tests.helpers.small import BATCH, EVALUATION, build, encoder, images, norms, options, stir


class OneNorm(Backbone):
    """A normalized pixel beside a constant: where statistics fit, classes lie in different angles."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.width = norm, 2

    def features(self, images: Tensor) -> dict[str, Tensor]:
        z = self.norm(images[:, :, 0, 0])
        return {"pooled": torch.stack((z[:, 0], torch.ones(len(z))), 1)}


def graded(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose brightness tells their class, of two."""
    labels = torch.randint(2, (count,), generator=torch.Generator().manual_seed(seed))
    pixels = (100 + 50 * labels)[:, None, None, None].expand(count, 1, 2, 2)
    return pixels.to(torch.uint8).contiguous(), labels


def test_statistics_of_the_training_that_do_not_fit() -> None:
    train, test = graded(3200, 0), graded(1600, 1)
    norm: Any = nn.BatchNorm1d(1)
    network = OneNorm(norm)

    def accuracies() -> dict[str, float | None]:
        return three_way(network, train, test, 64, EVALUATION, standardise, 0)

    with torch.no_grad():
        norm.running_mean.fill_(float(standardise(train[0].float() / 255).mean()))
        norm.running_var.fill_(float((train[0].float() / 255).var()))
    assert all(value is not None and value > 0.99 for value in accuracies().values())
    with torch.no_grad():  # every image is far from the mean: all point the same way
        norm.running_mean.fill_(-1e9)
    found = accuracies()
    assert found["train_batch"] > 0.99  # type: ignore[operator]  # not None: every embedding is finite
    assert found["held_out_batch"] > 0.99  # type: ignore[operator]  # not None: every embedding is finite
    assert found["held_out_population"] < 0.7  # type: ignore[operator]  # not None: every embedding is finite


def test_seen_images_are_apart_from_unseen_ones() -> None:
    labels = torch.randint(2, (1600,), generator=torch.Generator().manual_seed(2))
    train, test = graded(3200, 0), (graded(1600, 1)[0], labels)
    found = three_way(OneNorm(nn.BatchNorm1d(1)), train, test, 64, EVALUATION, standardise, 0)
    assert found["train_batch"] > 0.99  # type: ignore[operator]  # not None: every embedding is finite
    assert found["held_out_batch"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("norm", ["ln", "gn", "none-plain"])
def test_there_are_no_three_ways_without_batch_statistics(norm: str) -> None:
    given = splits()
    found = three_way(
        encoder("resnet", norm), given["train"], given["test"], BATCH, EVALUATION, standardise, 0
    )
    assert found == dict.fromkeys(KEYS)


def test_a_split_without_enough_batches_has_none() -> None:
    given = splits()
    few = given["train"][0][: 3 * BATCH - 1], given["train"][1][: 3 * BATCH - 1]
    network = encoder("resnet", "bn")
    assert three_way(
        network, few, given["test"], BATCH, EVALUATION, standardise, 0
    ) == dict.fromkeys(KEYS)
    enough = given["train"][0][: 3 * BATCH], given["train"][1][: 3 * BATCH]
    found = three_way(network, enough, given["test"], BATCH, EVALUATION, standardise, 0)
    assert None not in found.values()


@pytest.mark.parametrize("norm", ["bn", "ghost-bn", "batch-renorm"])
def test_the_batch_alone_normalizes_whatever_the_statistics(norm: str) -> None:
    layer = norms(norm).layer("vector", 4)
    layer.train()
    x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(9):
        layer(3 * x + 5)  # a history unlike the batch
    before = copy.deepcopy(layer.state_dict())
    layer.eval()
    stored = layer(x)
    with population_statistics(layer):
        assert torch.equal(layer(x), stored)
    groups = options("norm", norm).get("groups", 1)
    expected = torch.cat(
        [F.batch_norm(part, None, None, training=True) for part in x.chunk(groups)]
    )
    for _ in range(2):
        with batch_statistics(layer):
            torch.testing.assert_close(layer(x), expected)
    assert not layer.training
    assert layer.momentum == 0.1
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("statistics", ["batch", "running", "momentum", "eman"])
def test_the_mode_at_the_end_of_a_training(statistics: str) -> None:
    policy = {"teacher": {"statistics": statistics, "shuffle": False}}
    network: Any = build("byol", "resnet", "bn", training=policy)
    stir(network)
    network.teacher.load(network.student())
    stored = network.eval().teacher.network(images())
    network.train()
    training_mode(network)
    assert network.backbone.training
    found = network.teacher.network(images())
    assert torch.allclose(found, stored, atol=1e-5) == (statistics != "batch")
    assert not any(m.training for m in network.modules() if isinstance(m, HistoryBatchNorm))


def test_groups_of_a_network() -> None:
    assert grouping(encoder("resnet", "bn"), 8) is None
    assert grouping(encoder("resnet", "gn"), 8) is None  # its groups are of channels
    for backbone in ("resnet", "vit"):
        assert grouping(encoder(backbone, "ghost-bn"), 8).tolist() == [0] * 4 + [1] * 4  # type: ignore[union-attr]
    fine = {"norm": "ghost-bn", "groups": 4, "assignment": "strided"}
    network = build("simclr", "resnet", "ghost-bn", spec=fine).embedding_networks()["projector"]
    assert grouping(network, 8).tolist() == [0, 1, 2, 3] * 2  # type: ignore[union-attr]
    coarse = encoder("resnet", "ghost-bn")
    both = nn.Sequential(coarse, network)
    assert grouping(both, 8).tolist() == [0, 1, 2, 3] * 2  # type: ignore[union-attr]
