"""The linear probe: multinomial logistic regression on standardised frozen embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmark.evaluation.knn import Split

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
    train: Split, validation: Split, scored: Split, penalties: Sequence[float]
) -> Probe:
    """Fits one probe for each penalty on `train` and scores the one that is best on `validation`.

    Embeddings are standardised by the training split's mean and standard deviation. If several
    penalties are best, the strongest wins.
    """
    x = train[0].cpu().double().numpy()
    mean, std = x.mean(0), x.std(0)
    std[std == 0] = 1.0

    def prepared(split: Split) -> tuple[np.ndarray, np.ndarray]:
        return (split[0].cpu().double().numpy() - mean) / std, split[1].cpu().numpy()

    (x, y), held_out, final = prepared(train), prepared(validation), prepared(scored)
    best = (-1.0, 0, 0.0)
    model = LogisticRegression(max_iter=ITERATIONS, tol=1e-3, warm_start=True)
    ordered = sorted(penalties)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for place, penalty in enumerate(ordered):
            model.C = penalty
            model.fit(x, y)
            score = float((model.predict(held_out[0]) == held_out[1]).mean())
            if score > best[0]:
                best = (score, place, float((model.predict(final[0]) == final[1]).mean()))
    place = best[1]
    return Probe(best[2], best[0], ordered[place], place in (0, len(ordered) - 1))
