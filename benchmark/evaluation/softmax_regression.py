"""Multinomial logistic regression in torch, on the device of the embeddings and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PART = {"cpu": 2**20, "cuda": 2**24}
"""Most numbers in the embeddings and logits of the rows that are processed at once, by device.

On a CPU they fit its cache; on a GPU the kernels take longer than their launches.
"""

TOLERANCE = 1e-4
"""Largest entry of the gradient at which a fit ends: a tenth of that of the probe by scikit-learn."""

HISTORY = 10
"""Steps that L-BFGS remembers, as in scipy."""


@dataclass(frozen=True)
class Regression:
    """A linear classifier of standardised embeddings."""

    weights: Tensor
    """(K, D + 1), float64; the last column is the intercept."""
    mean: Tensor
    std: Tensor
    """Of each dimension (D,) of the embeddings that it was fitted to; 1 where the deviation is 0."""

    def parts(self, embeddings: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The standardised embeddings (n, D) and logits (n, K) of `rows` of `embeddings` at a time.

        Each part overwrites the last one: new tensors would leave holes in the memory of a CPU, which
        grow to the size of all embeddings.
        """
        w = self.weights.to(embeddings.dtype)
        one, two = (embeddings.new_empty(self.rows, n) for n in (w.shape[1] - 1, len(w)))
        for part in embeddings.split(self.rows):
            x = torch.sub(part, self.mean, out=one[: len(part)]).div_(self.std)
            yield x, torch.addmm(w[:, -1], x, w[:, :-1].T, out=two[: len(part)])

    @property
    def rows(self) -> int:
        """How many embeddings are processed at once."""
        return max(1, PART[self.weights.device.type] // sum(self.weights.shape))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """The class indices, int64 (N,), of embeddings (N, D)."""
        return torch.cat([logits.argmax(1) for _, logits in self.parts(embeddings)])


def regressions(
    embeddings: Tensor, labels: Tensor, penalties: Sequence[float], iterations: int
) -> Iterator[Regression]:
    """Fits embeddings (N, D) to class indices (N,), for each C of `penalties` in turn.

    Minimises scikit-learn's objective divided by CN: the mean of −log softmax(Wx + b)ₗₐᵦₑₗ, plus
    ‖W‖² / (2CN), where x is the standardised embedding. Each fit starts from the one before it and ends
    at TOLERANCE, or after `iterations` steps of L-BFGS with the strong Wolfe conditions.

    Embeddings are standardised anew in each evaluation, a part at a time, so there is no second copy of
    them. Products have the precision of `embeddings`; sums over parts, and the steps, have float64.
    """
    mean, std = _moments(embeddings)
    width, classes = embeddings.shape[1], int(labels.max()) + 1
    weights = torch.zeros(classes, width + 1, dtype=torch.float64, device=embeddings.device)
    for penalty in penalties:
        found = Regression(weights.clone(), mean, std)
        _minimise(found, embeddings, labels, penalty, iterations)
        yield found
        weights = found.weights


def _minimise(
    model: Regression, embeddings: Tensor, labels: Tensor, penalty: float, iterations: int
) -> None:
    """Changes the model's weights to those of the minimum."""
    # No end but that of the gradient, and where rounding leaves no descent.
    optimizer = torch.optim.LBFGS(
        [model.weights], max_iter=iterations, max_eval=2 * iterations, tolerance_grad=TOLERANCE,
        tolerance_change=1e-14, history_size=HISTORY, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        loss, model.weights.grad = objective(model, embeddings, labels, penalty)
        return loss

    optimizer.step(closure)


def objective(
    model: Regression, embeddings: Tensor, labels: Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """What `regressions` minimises, and its gradient (K, D + 1), both float64."""
    loss, gradient = model.weights.new_zeros(()), torch.zeros_like(model.weights)
    for (x, logits), truth in zip(model.parts(embeddings), labels.split(model.rows), strict=True):
        right = torch.arange(len(x), device=x.device), truth
        residual = logits.sub_(logits.logsumexp(1, keepdim=True))
        loss -= residual[right].sum(dtype=loss.dtype)
        residual.exp_()[right] -= 1
        gradient[:, :-1] += residual.T @ x
        gradient[:, -1] += residual.sum(0)
    w = model.weights[:, :-1]
    gradient[:, :-1] += w / penalty
    return (loss + w.square().sum() / (2 * penalty)) / len(labels), gradient / len(labels)


def _moments(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,), 1 where it is 0, summed in float64 a part at a time."""
    count, width = embeddings.shape
    rows = max(1, PART[embeddings.device.type] // width)
    zero = torch.zeros(width, dtype=torch.float64, device=embeddings.device)
    buffer = zero.new_empty(rows, width)

    def moment(power: int, centre: Tensor) -> Tensor:
        total = zero.clone()
        for part in embeddings.split(rows):
            total += torch.sub(part, centre, out=buffer[: len(part)]).pow_(power).sum(0)
        return total / count

    mean = moment(1, zero)
    std = moment(2, mean).sqrt()
    std[std == 0] = 1
    return mean.to(embeddings.dtype), std.to(embeddings.dtype)
