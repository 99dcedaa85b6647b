"""Embeddings, re-estimated statistics, and which split is asked for what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.backbones.base import Backbone
from benchmark.evaluation import features
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.features import embed, reestimate
from benchmark.planning.configuration import EvaluationConfig
from benchmark.results import contents
from tests.helpers.small import EVALUATION, backbones, encoder, norms, stir

NEAREST = (1, 5)
RESNET = [norm for backbone, norm in backbones() if backbone == "resnet"]


def judged_on(judge: str) -> EvaluationConfig:
    return EVALUATION.model_copy(update={"knn_k": NEAREST, "judge": judge})


class OneNorm(Backbone):
    """A norm, then the mean and the spread of each channel."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norms(norm).layer("map", 4)
        self.width = 8

    def features(self, images):
        x = self.norm(images)
        return {"pooled": torch.cat((x.mean((2, 3)), x.std((2, 3))), 1), "other": x[:, :, 0, 0]}


def standardise(x):
    return 2 * x - 1


def split(n, seed, channels=4, side=6):
    """Images whose classes differ in brightness, and much in other ways."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 150, (n, channels, side, side), generator=generator)
    return (noise + 12 * labels[:, None, None, None]).to(torch.uint8), labels


SPLITS = {"train": split(60, 0), "validation": split(30, 1), "test": split(31, 2)}


@pytest.mark.parametrize("judge", ["test", "validation"])
@pytest.mark.parametrize("few", [(), (0.5, 0.1)])
def test_the_keys_are_those_that_records_are_checked_for(judge, few):
    spec = judged_on(judge).model_copy(update={"few_labels": few})
    found = evaluate(OneNorm("bn"), SPLITS, spec, standardise, split_seed=0).metrics
    assert found.keys() == contents.expected(spec, {"pooled", "other"}).keys() | {"judge"}


def test_statistics_of_one_full_batch_are_those_of_the_data_set():
    network = OneNorm("bn")
    network.norm.momentum = 0.37
    network.train()(9 + torch.randn(5, 4, 6, 6))  # what training left there is forgotten
    images = SPLITS["train"][0]
    assert reestimate(network, images, 60, standardise)
    pixels = standardise(images.double() / 255).movedim(1, 0).flatten(1)
    torch.testing.assert_close(network.norm.running_mean.double(), pixels.mean(1))
    torch.testing.assert_close(network.norm.running_var.double(), pixels.var(1))
    assert network.norm.momentum == 0.37
    assert not network.norm.training


@pytest.mark.parametrize(
    ("norm", "groups", "batch"), [("bn", 1, 20), ("ghost-bn", 2, 20), ("ghost-bn", 2, 21)]
)
def test_statistics_are_means_over_whole_batches(norm, groups, batch):
    network = OneNorm(norm)
    network.train()(9 + torch.randn(6, 4, 6, 6))
    images = SPLITS["train"][0][:50]  # two batches of 20; the rest is left out
    assert reestimate(network, images, batch, standardise)
    parts = standardise(images[:40].double() / 255).split(20 // groups)
    means = [part.movedim(1, 0).flatten(1).mean(1) for part in parts]
    variances = [part.movedim(1, 0).flatten(1).var(1) for part in parts]
    torch.testing.assert_close(network.norm.running_mean.double(), torch.stack(means).mean(0))
    torch.testing.assert_close(network.norm.running_var.double(), torch.stack(variances).mean(0))
    assert network.norm.momentum == 0.1


def test_what_keeps_no_statistics_is_left_alone():
    network = OneNorm("ln").eval()
    assert not reestimate(network, SPLITS["train"][0], 20, standardise)


def test_statistics_do_not_touch_weights():
    network = encoder("resnet", "bn")
    before = {name: p.clone() for name, p in network.named_parameters()}
    reestimate(network, split(40, 0, 3, 16)[0], 20, standardise)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("norm", RESNET)
def test_embedding_is_in_evaluation_mode_whatever_the_chunks(norm, monkeypatch):
    network = encoder("resnet", norm)
    stir(network)
    images = split(11, 0, 3, 16)[0]
    state = {name: b.clone() for name, b in network.named_buffers()}
    whole = embed(network.train(), images, standardise)
    monkeypatch.setattr(features, "CHUNK", 4)
    parts = embed(network.train(), images, standardise)
    torch.testing.assert_close(parts, whole)
    expected = torch.stack([network.eval()(standardise(i[None] / 255))[0] for i in images])
    torch.testing.assert_close(whole["pooled"], expected.detach())
    assert whole["pooled"].dtype == torch.float32
    assert not whole["pooled"].requires_grad
    assert all(torch.equal(b, state[name]) for name, b in network.named_buffers())


@pytest.mark.parametrize(
    ("side", "count"), [(28, 500), (64, 500), (91, 500), (92, 495), (224, 83), (256, 64), (3000, 1)]
)
def test_large_images_pass_in_smaller_parts(side, count):
    """Small ones in parts of 500 as ever, which keeps their bits."""
    images = torch.ones((), dtype=torch.uint8).expand(count + 1, 1, side, side)
    sizes = [len(part) for part in features.in_parts(images, lambda x: x)]
    assert sizes == [count, 1]
    assert [len(part) for part in features.in_parts(images, lambda x: x, count + 1)] == [count + 1]


def test_trial_is_judged_without_the_test_split():
    splits = {name: SPLITS[name] for name in ("train", "validation")}
    found = evaluate(OneNorm("bn"), splits, judged_on("validation"), standardise).metrics
    assert found.pop("judge") == "validation"
    names = [
        f"{r}{s}.knn{k}" for r in ("pooled", "other") for s in ("", "_reestimated") for k in (1, 5)
    ]
    assert set(found) == set(names)
    assert all(0 <= score <= 1 for score in found.values())
    # The validation split's accuracy is the same, whoever judges.
    final = evaluate(OneNorm("bn"), SPLITS, judged_on("test"), standardise).metrics
    for name in names:
        assert final[f"{name}.validation"] == found[name]


def test_test_labels_move_test_scores_alone():
    wrong = SPLITS | {"test": (SPLITS["test"][0], (SPLITS["test"][1] + 1) % 3)}
    spec = judged_on("test")
    right = evaluate(OneNorm("bn"), SPLITS, spec, standardise).metrics
    other = evaluate(OneNorm("bn"), wrong, spec, standardise).metrics
    assert set(right) == set(other)
    scores = {"knn1", "knn5", "linear"}
    moved = {name for name in right if right[name] != other[name]}
    assert all(name.split(".", 1)[1] in scores for name in moved)
    assert {"pooled.knn5", "pooled.linear", "pooled_reestimated.linear"} <= moved


def test_without_statistics_the_reestimated_metrics_are_the_same():
    found = evaluate(OneNorm("ln"), SPLITS, judged_on("test"), standardise).metrics
    names = [name for name in found if "_reestimated" in name]
    assert len(names) == 16
    for name in names:
        assert found[name] == found[name.replace("_reestimated", "")]


def test_statistics_that_were_off_are_mended_in_the_reestimated_metrics_alone():
    good, bad = OneNorm("bn"), OneNorm("bn")
    reestimate(good, SPLITS["train"][0], 20, standardise)
    with torch.no_grad():
        bad.norm.running_mean.copy_(torch.tensor([50.0, -50, 50, -50]))
    spec = judged_on("test")
    expected = evaluate(good, SPLITS, spec, standardise).metrics
    found = evaluate(bad, SPLITS, spec, standardise).metrics
    for name in expected:
        if "_reestimated" in name:
            assert found[name] == expected[name]
    assert expected["pooled.knn5"] == expected["pooled_reestimated.knn5"]
    assert found["pooled.knn5"] != found["pooled_reestimated.knn5"]


def test_embeddings_that_are_not_finite_have_no_metrics():
    network = OneNorm("ln")
    nn.init.constant_(network.norm.bias, torch.inf)
    for judge in ("validation", "test"):
        found = evaluate(network, SPLITS, judged_on(judge), standardise).metrics
        assert found.pop("judge") == judge
        finite = evaluate(OneNorm("ln"), SPLITS, judged_on(judge), standardise).metrics
        assert set(found) == set(finite) - {"judge"}
        assert set(found.values()) == {None}


def test_correct_is_the_accuracy_image_by_image() -> None:
    found = evaluate(OneNorm("bn"), SPLITS, judged_on("test"), standardise)
    assert found.correct is not None
    count = len(SPLITS["test"][1])
    bits = bin(int(found.correct, 16))[2:].zfill(4 * len(found.correct))
    assert len(found.correct) == -(-count // 4)
    assert bits[count:].count("1") == 0
    assert bits.count("1") / count == found.metrics[f"pooled_reestimated.knn{NEAREST[0]}"]


def test_the_first_image_is_the_highest_bit() -> None:
    spec = judged_on("test")
    whole = evaluate(OneNorm("ln"), SPLITS, spec, standardise).correct
    images, labels = SPLITS["test"]
    one = SPLITS | {"test": (images[:1], labels[:1])}
    first = evaluate(OneNorm("ln"), one, spec, standardise).correct
    assert whole is not None
    assert first in ("0", "8")
    assert (int(whole[0], 16) >= 8) == (first == "8")


def test_statistics_are_of_what_the_training_encodes() -> None:
    network = OneNorm("bn")
    seen: list[int] = []

    def encode(images: torch.Tensor, number: int) -> object:
        seen.append(number)
        return network.features(0 * images)

    assert reestimate(network, SPLITS["train"][0], 20, standardise, encode)
    assert seen == [0, 1, 2]
    assert bool((network.norm.running_mean == 0).all())
