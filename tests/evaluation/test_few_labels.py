"""Evaluations with few labels: which images, what they are worth, and where they are stated."""

from __future__ import annotations

import itertools
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
import torch

from benchmark.cli import parser
from benchmark.data.load import load
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.few_labels import subsets
from benchmark.evaluation.knn import knn_accuracy
from benchmark.evaluation.probe import linear_probe
from benchmark.execution.cell import run
from benchmark.results import contents
from benchmark.results.records import Store
from tests.evaluation.test_evaluate import SPLITS, OneNorm, judged_on, standardise
from tests.helpers import tiny

COUNTS = [3, 25, 150, 1000]
LABELS = torch.arange(4).repeat_interleave(torch.tensor(COUNTS))[
    torch.randperm(sum(COUNTS), generator=torch.Generator().manual_seed(0))
]
SHARES = [0.1, 0.01, 0.29, 0.5]


def test_every_class_has_its_rounded_share_and_at_least_one_image():
    found = subsets(LABELS, SHARES, 0)
    assert list(found) == SHARES
    for share, index in found.items():
        counts = [
            max(1, int((Decimal(str(share)) * n).quantize(Decimal(1), ROUND_HALF_UP)))
            for n in COUNTS
        ]
        assert LABELS[index].bincount().tolist() == counts
        assert index.tolist() == sorted(set(index.tolist()))


def test_a_smaller_share_is_inside_a_larger_one():
    found = subsets(LABELS, SHARES, 0)
    ordered = [set(found[share].tolist()) for share in sorted(SHARES)]
    assert all(small < large for small, large in itertools.pairwise(ordered))


def test_the_images_depend_on_the_seed_of_the_splits_alone():
    one, two, other = (subsets(LABELS, SHARES, seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[share], two[share]) for share in SHARES)
    assert not torch.equal(one[0.5], other[0.5])
    # Nor on which shares are asked for.
    assert torch.equal(subsets(LABELS, [0.1], 3)[0.1], one[0.1])


@pytest.mark.parametrize("solver", ["scikit-learn", "lbfgs"])
def test_metrics_are_those_of_a_training_split_of_these_images(solver):
    spec = judged_on("test").model_copy(update={"few_labels": (0.1, 0.5), "probe": solver})
    found = evaluate(OneNorm("ln"), SPLITS, spec, standardise, None, 7).metrics
    plain = spec.model_copy(update={"few_labels": ()})
    whole = evaluate(OneNorm("ln"), SPLITS, plain, standardise).metrics
    assert {key: found[key] for key in whole} == whole
    images, labels = SPLITS["train"]
    extra = set(found) - set(whole)
    for share, index in subsets(labels, spec.few_labels, 7).items():
        cut = SPLITS | {"train": (images[index], labels[index])}
        expected = evaluate(OneNorm("ln"), cut, plain, standardise).metrics
        for readout in ("pooled", "other", "pooled_reestimated"):
            prefix = f"{readout}.few_labels_{share}."
            own = {key for key in extra if key.startswith(prefix)}
            assert found[f"{prefix}images"] == len(index) == int(60 * share)
            names = {key.removeprefix(prefix) for key in own} - {"images"}
            assert names == {
                "knn1", "knn1.validation", "linear", "linear.validation", "linear.penalty",
                "linear.penalty_at_edge",
            }  # fmt: skip
            assert all(found[f"{prefix}{name}"] == expected[f"{readout}.{name}"] for name in names)
            extra -= own
    assert all(key.startswith("other_reestimated.") for key in extra)


def test_embeddings_that_are_not_finite_have_no_accuracy():
    network = OneNorm("ln")
    torch.nn.init.constant_(network.norm.bias, torch.inf)
    spec = judged_on("test").model_copy(update={"few_labels": (0.5,)})
    found = evaluate(network, SPLITS, spec, standardise, None, 0).metrics
    assert found["pooled.few_labels_0.5.images"] == 30
    assert found["pooled.few_labels_0.5.linear"] is found["pooled.few_labels_0.5.knn1"] is None


def test_without_the_seed_of_the_splits_there_are_none():
    spec = judged_on("test").model_copy(update={"few_labels": (0.5,)})
    with pytest.raises(ValueError, match="few_labels: expected the seed of the splits"):
        evaluate(OneNorm("ln"), SPLITS, spec, standardise)


def test_a_cell_takes_the_seed_of_its_images(tmp_path: Path):
    tree = tiny.changed(tiny.raw(), "data/seed", 5)
    tree["evaluation"] |= {"few_labels": [0.1], "probe": "lbfgs"}
    root = tiny.project(tmp_path, tree)
    cell = tiny.cell("raw-pixels-pixels-none-s0", tree=tree)
    task = cell.on(tiny.dataset(root))
    record = run(task, root / "data/mini", Store(tmp_path), torch.device("cpu"), lambda *_: True)
    built = load(root / "data/mini", ("train", "validation", "test"))
    mean, std = built.manifest.mean[0], built.manifest.std[0]
    z = {
        name: (((images[:].float() / 255 - mean) / std).flatten(1), built.labels[name])
        for name, images in built.images.items()
    }
    index = subsets(built.labels["train"], [0.1], 5)[0.1]
    part = z["train"][0][index], z["train"][1][index]
    found, prefix = record.result.metrics, "pooled_reestimated.few_labels_0.1"
    spec = cell.config.evaluation
    assert contents.fault(record) is None
    assert found[f"{prefix}.images"] == 16
    probe = linear_probe(part, z["validation"], z["test"], spec.probe_c, "lbfgs")
    assert found[f"{prefix}.linear"] == probe.accuracy
    assert found[f"{prefix}.knn5"] == knn_accuracy(part, z["test"], [5], spec.knn_temperature)[0]


@pytest.mark.parametrize("verb", ["plan", "train", "sweep"])
def test_a_share_of_less_than_an_image_of_each_class_is_refused(
    tmp_path: Path, monkeypatch, capsys, verb: str
):
    """Four classes and 160 images: a fortieth is the least."""
    root = tiny.project(tmp_path, tiny.changed(tiny.raw(), "evaluation/few_labels", [0.5, 0.024]))
    monkeypatch.chdir(root)
    assert tiny.refusal(capsys, verb) == (
        "benchmark: params.yaml: evaluation: few_labels has 0.024, expected at least 4/160: one "
        "training image for each of the 4 classes"
    )
    tiny.write_params(root, tiny.changed(tiny.raw(), "evaluation/few_labels", [0.5, 0.025]))
    assert parser.main(["plan"]) == 0
