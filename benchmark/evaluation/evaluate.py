"""The final stage of a cell: the only code that is given the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.evaluation.features import embed, reestimate
from benchmark.evaluation.knn import knn_accuracy, knn_correct
from benchmark.evaluation.probe import linear_probe
from benchmark.planning.configuration import EvaluationConfig

VERSION = 1
"""Raised whenever the same weights would get other metrics."""

Split = tuple[Tensor, Tensor]


class Evaluation(NamedTuple):
    """What a frozen backbone is judged by."""

    metrics: dict[str, Any]
    """Accuracies in 0..1, unless the name says otherwise, by `<readout>[_reestimated].<metric>`."""
    correct: str | None
    """Which images of the judged split the first k nearest neighbours get right, as hexadecimal bits.

    By the pooled embedding with re-estimated statistics, so that two networks can be compared on the
    images that they disagree on. The first image is the highest bit of the first digit. None where an
    embedding is not finite, and for a trial of a sweep.
    """


def evaluate(
    backbone: Backbone,
    splits: Mapping[str, Split],
    spec: EvaluationConfig,
    standardise: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor, int], object] | None = None,
) -> Evaluation:
    """Judges a frozen backbone.

    `splits` holds uint8 images and labels: `train`, `validation` and, where the cell is judged on
    it, `test`. Without batch statistics the re-estimated metrics are those of the only network there is.
    Re-estimates the statistics in place; `encode` is what `reestimate` takes.
    """
    judge = spec.judge
    features = embed_all(backbone, splits, standardise)
    metrics = _judge(features, splits, spec, "")
    if reestimate(backbone, splits["train"][0], spec.precise_bn_batch_size, standardise, encode):
        features = embed_all(backbone, splits, standardise)
        metrics |= _judge(features, splits, spec, "_reestimated")
    else:
        metrics |= {key.replace(".", "_reestimated.", 1): value for key, value in metrics.items()}
    # A trial of a sweep keeps its scores alone.
    right = _correct(features, splits, spec) if judge == "test" else None
    return Evaluation(metrics | {"judge": judge}, right)


def _correct(
    features: Mapping[str, Mapping[str, Tensor]],
    splits: Mapping[str, Split],
    spec: EvaluationConfig,
) -> str | None:
    columns = [(features[name]["pooled"], splits[name][1]) for name in ("train", spec.judge)]
    if not all(bool(torch.isfinite(column[0]).all()) for column in columns):
        return None
    (right,) = knn_correct(*columns[0], *columns[1], spec.knn_k[:1], spec.knn_temperature)
    bits = "".join("1" if one else "0" for one in right.tolist())
    digits = -(-len(bits) // 4)
    return f"{int(bits.ljust(4 * digits, '0'), 2):0{digits}x}"


def embed_all(
    backbone: Backbone, splits: Mapping[str, Split], standardise: Callable[[Tensor], Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Every split's readouts by split and readout."""
    return {name: embed(backbone, split[0], standardise) for name, split in splits.items()}


def _judge(
    features: Mapping[str, Mapping[str, Tensor]],
    splits: Mapping[str, Split],
    spec: EvaluationConfig,
    suffix: str,
) -> dict[str, Any]:
    judge = spec.judge
    metrics: dict[str, Any] = {}
    for readout in features["train"]:
        columns = {name: (features[name][readout], splits[name][1]) for name in features}
        prefix = f"{readout}{suffix}"
        if not all(bool(torch.isfinite(column[0]).all()) for column in columns.values()):
            metrics |= dict.fromkeys(_keys(prefix, spec))
            continue
        for split in dict.fromkeys(("validation", judge)):
            tag = _tag(split, judge)
            scores = knn_accuracy(
                *columns["train"], *columns[split], spec.knn_k, spec.knn_temperature
            )
            metrics |= {
                f"{prefix}.knn{k}{tag}": score for k, score in zip(spec.knn_k, scores, strict=True)
            }
        if judge == "validation":
            continue  # a trial of a sweep is scored by its nearest neighbours alone
        probe = linear_probe(columns["train"], columns["validation"], columns[judge], spec.probe_c)
        metrics |= {
            f"{prefix}.linear": probe.accuracy,
            f"{prefix}.linear.validation": probe.validation,
            f"{prefix}.linear.penalty": probe.penalty,
            f"{prefix}.linear.penalty_at_edge": probe.at_edge,
        }
    return metrics


def _tag(split: str, judge: str) -> str:
    return "" if split == judge else f".{split}"


def _keys(prefix: str, spec: EvaluationConfig) -> list[str]:
    """The metrics of a readout that is not finite, all of them null."""
    judge = spec.judge
    tags = [_tag(split, judge) for split in dict.fromkeys(("validation", judge))]
    keys = [f"{prefix}.knn{k}{tag}" for k in spec.knn_k for tag in tags]
    if judge == "validation":
        return keys
    parts = ("", ".validation", ".penalty", ".penalty_at_edge")
    return keys + [f"{prefix}.linear{part}" for part in parts]
