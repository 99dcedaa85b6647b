"""The judgement of a network in training."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from benchmark.evaluation import online_knn
from benchmark.evaluation.features import embed, reestimate
from benchmark.evaluation.knn import knn_accuracy
from tests.evaluation.test_evaluate import SPLITS, OneNorm, standardise

BATCH = 20


def watching(network):
    return online_knn.watcher(
        network, SPLITS["train"], SPLITS["validation"], 5, 0.07, BATCH, standardise
    )


def expected(network):
    """What the evaluation's own parts say of a copy with its statistics estimated anew."""
    twin = copy.deepcopy(network)
    (bank, votes), (queries, labels) = SPLITS["train"], SPLITS["validation"]
    reestimate(twin, bank, BATCH, standardise)
    z = [embed(twin, images, standardise)["pooled"] for images in (bank, queries)]
    return knn_accuracy(z[0], votes, z[1], labels, [5], 0.07)[0]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("norm", ["bn", "ghost-bn", "batch-renorm", "ln"])
def test_statistics_are_estimated_anew_and_the_network_is_left_as_it_was(norm, mode):
    network = OneNorm(norm).train(mode)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0]))  # as of no image at all
    before = copy.deepcopy(network.state_dict())
    momentum = getattr(network.norm, "momentum", None)
    score = watching(network)()
    assert score == expected(network) > 1 / 3
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training == network.norm.training == mode
    assert getattr(network.norm, "momentum", None) == momentum
    assert all(p.grad is None for p in network.parameters())


def test_poor_running_statistics_do_not_show():
    good, bad = OneNorm("bn"), OneNorm("bn")
    with torch.no_grad():
        bad.norm.running_mean.fill_(1e6)
    assert watching(good)() == watching(bad)()


def test_the_weights_of_the_moment_are_judged():
    network = OneNorm("bn")
    judge = watching(network)
    before = judge()
    with torch.no_grad():
        network.norm.weight.zero_()
        network.norm.bias.fill_(1.0)
    assert judge() < before  # every image is the same


def test_what_is_not_finite_has_no_score():
    network = OneNorm("ln")
    torch.nn.init.constant_(network.norm.bias, torch.inf)
    assert math.isnan(watching(network)())


def test_images_are_spaced_over_the_split(monkeypatch):
    images, labels = SPLITS["train"]
    part, theirs = online_knn._spaced((images, labels), 7)
    places = [60 * k // 7 for k in range(7)]
    assert torch.equal(part, images[places])
    assert torch.equal(theirs, labels[places])
    assert len(online_knn._spaced((images, labels), 1000)[0]) == 60
