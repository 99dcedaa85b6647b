"""The final stage of a cell: this code and fine-tuning alone are given the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.data.resample import fitted
from benchmark.data.storage import Labelled
from benchmark.evaluation.features import embed, finite, reestimate
from benchmark.evaluation.few_labels import Subsets, subsets
from benchmark.evaluation.knn import Split, knn_accuracy, knn_correct
from benchmark.evaluation.probe import Probe, linear_probe
from benchmark.planning.configuration import EvaluationConfig

VERSION = 1
"""Raised whenever the same weights would get other metrics."""

Columns = Mapping[str, Mapping[str, Split]]
"""Embeddings and labels by readout and split."""


class Evaluation(NamedTuple):
    """The scores of a frozen backbone."""

    metrics: dict[str, Any]
    """Accuracies in 0..1, unless the name says otherwise, by `<readout>[_reestimated].<metric>`."""
    correct: str | None
    """Which images of the judged split kNN with the first k classifies correctly, as hexadecimal bits.

    It uses the pooled embedding with re-estimated statistics. With it, two networks can be compared on
    the images that they disagree on. The first image is the highest bit of the first digit. None if an
    embedding is not finite, and for a trial of a sweep.
    """


def evaluate(
    backbone: Backbone,
    splits: Mapping[str, Labelled],
    spec: EvaluationConfig,
    standardise: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, int], object] | None = None,
    split_seed: int | None = None,
) -> Evaluation:
    """Evaluates a frozen backbone, whose BN statistics it re-estimates in place (see `reestimate`).

    `splits` holds uint8 images and labels: `train`, `validation` and, if the cell is judged on it,
    `test`. Without BN statistics the re-estimated metrics are copies of the first ones. `split_seed` is
    the seed of the data set's splits, which draws the training images of `spec.few_labels`.
    """
    judge = spec.judge
    few: Subsets = {}
    if spec.few_labels:
        if split_seed is None:
            raise ValueError("few_labels: expected the seed of the splits")
        few = subsets(splits["train"][1], spec.few_labels, split_seed)

    def embedded() -> Columns:
        z = {name: embed(backbone, split[0], standardise) for name, split in splits.items()}
        return {
            readout: {name: (z[name][readout], splits[name][1]) for name in splits}
            for readout in z["train"]
        }

    columns = embedded()
    metrics = _metrics(columns, spec, "", few)
    if reestimate(backbone, splits["train"][0], spec.precise_bn_batch_size, standardise, encode):
        del columns  # two sets of embeddings of a large data set may not fit
        columns = embedded()
        metrics |= _metrics(columns, spec, "_reestimated", few)
    else:
        metrics |= {key.replace(".", "_reestimated.", 1): value for key, value in metrics.items()}
    correct = _correct(columns["pooled"], spec) if judge == "test" else None
    return Evaluation(metrics | {"judge": judge}, correct)


def transfer(
    backbone: Backbone,
    track: str,
    splits: Mapping[str, Labelled],
    shape: tuple[int, int, int],
    spec: EvaluationConfig,
    standardise: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """Accuracies `transfer.<track>.<metric>` of the frozen embeddings of another track's images.

    `splits` are as for `evaluate`. The images are brought to `shape`, that of the network's own ones
    (`data.resample.fitted`), and standardised by the statistics of these.
    """

    def prepare(images: Tensor) -> Tensor:
        return standardise(fitted(images, shape))

    column = {
        name: (embed(backbone, images, prepare)["pooled"], labels)
        for name, (images, labels) in splits.items()
    }
    return _metrics({f"transfer.{track}": column}, spec, "", {})


def _correct(column: Mapping[str, Split], spec: EvaluationConfig) -> str | None:
    bank, queries = column["train"], column[spec.judge]
    if not finite(bank[0], queries[0]):
        return None
    (correct,) = knn_correct(bank, queries, spec.knn_k[:1], spec.knn_temperature)
    bits = "".join("1" if one else "0" for one in correct.tolist())
    digits = -(-len(bits) // 4)
    return f"{int(bits.ljust(4 * digits, '0'), 2):0{digits}x}"


def _metrics(columns: Columns, spec: EvaluationConfig, suffix: str, few: Subsets) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for readout, column in columns.items():
        prefix, (embeddings, labels) = f"{readout}{suffix}", column["train"]
        metrics |= _scores(prefix, column, spec, spec.knn_k)
        for share, index in few.items():
            own = f"{prefix}.few_labels_{share:g}"
            part = {**column, "train": (embeddings[index], labels[index])}
            metrics |= {f"{own}.images": len(index), **_scores(own, part, spec, spec.knn_k[:1])}
    return metrics


def _scores(
    prefix: str, column: Mapping[str, Split], spec: EvaluationConfig, neighbours: Sequence[int]
) -> dict[str, Any]:
    """The metrics of one readout by its split `train`."""
    judge, train = spec.judge, column["train"]
    metrics: dict[str, Any] = {}
    defined = finite(*(z for z, _ in column.values()))
    for split in dict.fromkeys(("validation", judge)):
        tag = "" if split == judge else f".{split}"
        scores: Sequence[float | None] = [None] * len(neighbours)
        if defined:
            scores = knn_accuracy(train, column[split], neighbours, spec.knn_temperature)
        for k, score in zip(neighbours, scores, strict=True):
            metrics[f"{prefix}.knn{k}{tag}"] = score
    if judge == "validation":
        return metrics  # a trial of a sweep is scored by kNN alone
    data = train, column["validation"], column[judge]
    probe = linear_probe(*data, spec.probe_c, spec.probe) if defined else Probe(*[None] * 4)
    for part, value in probe._asdict().items():
        metrics[f"{prefix}.linear{'' if part == 'accuracy' else '.' + part}"] = value
    return metrics
