"""The linear probe: multinomial logistic regression on standardised frozen embeddings."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmark.evaluation.knn import Split
from benchmark.evaluation.softmax_regression import regressions

Classifier = Callable[[Tensor], Tensor]
"""Gives embeddings (N, D) their class indices (N,)."""

ITERATIONS = 200
"""Most L-BFGS steps for each penalty, which starts from the last penalty's solution."""


class Probe(NamedTuple):
    """The result of the probe; all None if an embedding is not finite."""

    accuracy: float | None
    """Top-1 in 0..1 on the scored split, with the penalty chosen on the validation split."""
    validation: float | None
    penalty: float | None
    """scikit-learn's C, the inverse strength of the L2 penalty."""
    penalty_at_edge: bool | None
    """Whether the chosen penalty is the smallest or the largest one tried."""


def linear_probe(
    train: Split,
    validation: Split,
    scored: Split,
    penalties: Sequence[float],
    solver: str = "scikit-learn",
) -> Probe:
    """Fits one probe for each penalty on `train` and scores the one that is best on `validation`.

    Embeddings are standardised by the training split's mean and standard deviation. If several
    penalties are best, the strongest wins. `solver` is a key of `SOLVERS`.
    """
    best = (-1.0, 0, 0.0)
    ordered = sorted(penalties)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for place, classify in enumerate(SOLVERS[solver](*train, ordered)):
            score = _accuracy(classify, validation)
            if score > best[0]:
                best = (score, place, _accuracy(classify, scored))
    place = best[1]
    return Probe(best[2], best[0], ordered[place], place in (0, len(ordered) - 1))


def _accuracy(classify: Classifier, split: Split) -> float:
    embeddings, labels = split
    return int((classify(embeddings) == labels).sum()) / len(labels)


def _scikit_learn(
    embeddings: Tensor, labels: Tensor, penalties: Sequence[float]
) -> Iterator[Classifier]:
    """As `softmax_regression.regressions`, in float64 on one core."""
    x = embeddings.cpu().double().numpy()
    mean, std = x.mean(0), x.std(0)
    std[std == 0] = 1.0

    def standardised(z: Tensor) -> np.ndarray:
        found: np.ndarray = (z.cpu().double().numpy() - mean) / std
        return found

    def classify(z: Tensor) -> Tensor:
        return torch.from_numpy(model.predict(standardised(z))).to(z.device)

    x, y = standardised(embeddings), labels.cpu().numpy()
    model = LogisticRegression(max_iter=ITERATIONS, tol=1e-3, warm_start=True)
    for penalty in penalties:
        model.C = penalty
        model.fit(x, y)
        yield classify


SOLVERS: Mapping[str, Callable[[Tensor, Tensor, Sequence[float]], Iterator[Classifier]]] = {
    "scikit-learn": _scikit_learn,
    "lbfgs": functools.partial(regressions, iterations=ITERATIONS),
}
"""What fits the probes for ascending penalties; each classifier is used before the next fit."""
