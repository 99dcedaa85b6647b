"""The judgement of a network in training."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from benchmark.config import params
from benchmark.config.schema import MethodParams
from benchmark.evaluation import online_knn
from benchmark.evaluation.features import embed, reestimate
from benchmark.evaluation.knn import knn_accuracy
from benchmark.planning import plan
from benchmark.training.loop import MARKS
from tests.evaluation.test_evaluate import SPLITS, OneNorm, standardise
from tests.helpers import tiny

BATCH = 20


def watching(network):
    judge = online_knn.make_online_knn(
        network, SPLITS["train"], SPLITS["validation"], 5, 0.07, BATCH, standardise
    )
    return lambda: judge(lambda: True)


def expected(network):
    """What the evaluation's own parts say of a copy with its statistics estimated anew."""
    twin = copy.deepcopy(network)
    (bank, votes), (queries, labels) = SPLITS["train"], SPLITS["validation"]
    reestimate(twin, bank, BATCH, standardise)
    z = [embed(twin, images, standardise)["pooled"] for images in (bank, queries)]
    return knn_accuracy((z[0], votes), (z[1], labels), [5], 0.07)[0]


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


@pytest.mark.parametrize("passes", range(8))
def test_a_stop_is_looked_at_before_every_forward_pass_and_leaves_no_trace(passes):
    """Three batches of statistics, then the images that vote and those that are classified."""
    network = OneNorm("bn").train()
    judge = online_knn.make_online_knn(
        network, SPLITS["train"], SPLITS["validation"], 5, 0.07, BATCH, standardise
    )
    before = copy.deepcopy(network.state_dict())
    left = iter(range(passes))
    score = judge(lambda: next(left, None) is not None)
    assert (score is None) == (passes < 5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    assert network.norm.momentum == OneNorm("bn").norm.momentum


@pytest.mark.parametrize("images_seen", [31_500, 32_000, 128_000, 9_000_000])
@pytest.mark.parametrize("batch", [8, 64, 512])
def test_trainings_as_long_as_the_published_ones_are_judged_on_all_images(images_seen, batch):
    assert online_knn.counts(images_seen, batch, 7) == (online_knn.BANK, online_knn.QUERIES)


@pytest.mark.parametrize("batch", [2, 32, 256])
@pytest.mark.parametrize("steps", [1, 8, 60, 500, 5000])
def test_judgements_are_a_bounded_share_of_a_training(steps, batch):
    bank, queries = online_knn.counts(steps * batch, batch, len(MARKS))
    assert bank >= min(batch, online_knn.BANK)
    assert queries >= 1
    looks = len({max(1, round(share * steps)) for share in MARKS})
    passes = looks * (2 * bank + queries)
    # A backward pass is two forward passes. In the shortest runs a batch is judged at each step.
    assert passes <= (0.2 if steps >= 60 else 1.0) * 3 * steps * batch


def test_no_plan_of_the_project_is_judged_on_fewer_images(monkeypatch):
    """A published record has the curve."""
    seen = 0
    for file in [tiny.PROJECT / "params.yaml", *tiny.PROJECT.glob("tracks/*/params.yaml")]:
        found = params.read(file)
        for recipe in found.methods.values():
            if not isinstance(recipe, MethodParams):
                continue
            for backbone in recipe.learning_rate:
                images = plan.images_seen(recipe, backbone)
                batch = recipe.batch_size or found.training.batch_size
                assert online_knn.counts(images, batch, len(MARKS)) == (1000, 500), recipe
                seen += 1
    assert seen > 50


def test_images_are_spaced_over_the_split(monkeypatch):
    images, labels = SPLITS["train"]
    part, theirs = online_knn._spaced((images, labels), 7)
    places = [60 * k // 7 for k in range(7)]
    assert torch.equal(part, images[places])
    assert torch.equal(theirs, labels[places])
    assert len(online_knn._spaced((images, labels), 1000)[0]) == 60
