"""The losses, as functions of embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.norms.bases import widened

Loss = TypeVar("Loss", bound=Callable[..., Any])


def full_precision(loss: Loss) -> Loss:
    """A loss, computed in float32 or better at any precision of the training.

    A bfloat16 of 1 is .008 from the next number: a tenth of a logit at a temperature of .1.
    """

    @functools.wraps(loss)
    def computed(first: Tensor, *others: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return loss(
                widened(first), *(widened(x) if isinstance(x, Tensor) else x for x in others)
            )

    return cast(Loss, computed)


@full_precision
def classification(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of logits (N, K) against class indices (N,), and the accuracy, detached."""
    accuracy = (logits.detach().argmax(1) == target).float().mean()
    return F.cross_entropy(logits, target), accuracy


@full_precision
def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Normalized temperature-scaled cross-entropy (SimCLR, 2002.05709, equation 1).

    `first` and `second` (N, D) are two views of the same images, unnormalized. Each of the 2N
    embeddings must find its partner among the 2N − 1 others. Returns the mean loss and the
    accuracy, detached.
    """
    z = F.normalize(torch.cat((first, second)), dim=1)
    n = len(first)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    return classification(logits, partner)


@full_precision
def info_nce(
    query: Tensor, key: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE with a queue of negatives (MoCo, 1911.05722, equation 1).

    `query` and `key` are (N, D) and `negatives` (K, D), all normalized. Returns the mean loss and
    the share of queries nearer to their key than to every negative, detached.
    """
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat((positive, query @ negatives.T), 1) / temperature
    target = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return classification(logits, target)


@full_precision
def masked_reconstruction(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over the hidden patches (MAE, 2111.06377, §3).

    `prediction` and `target` are (N, P, D), `hidden` (N, P) bool.
    """
    error = ((prediction - target) ** 2).mean(2)
    return (error * hidden).sum() / hidden.sum()


@full_precision
def patch_errors(prediction: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """`masked_reconstruction` of each image (N,) by itself; all hide the same number of patches."""
    error = ((prediction - target) ** 2).mean(2)
    return (error * hidden).sum(1) / hidden.sum(1)


@full_precision
def contrast_in_batch(query: Tensor, key: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE with the other keys of the batch as negatives (MoCo v3, 2104.02057, equation 1).

    `query` and `key` are (N, D), unnormalized. Returns the mean loss and the share of queries
    nearest to their own key, detached.
    """
    logits = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / temperature
    target = torch.arange(len(query), device=query.device)
    return classification(logits, target)


@full_precision
def normalized(z: Tensor, how: str) -> Tensor:
    """Embeddings (N, D) after the norm of a loss, without scale and shift.

    `how`: `none`; `l2`, each of length 1; `layer`, each standardised over its dimensions; `batch`, each
    dimension standardised over the batch.
    """
    if how == "l2":
        return F.normalize(z, dim=1)
    if how == "layer":
        return F.layer_norm(z, z.shape[1:])
    if how == "batch":
        return F.batch_norm(z, None, None, training=True)
    return z


@full_precision
def regression(prediction: Tensor, target: Tensor, how: str) -> Tensor:
    """Squared distance of (N, D) embeddings, averaged over N (BYOL, 2006.07733, equation 2).

    `how` is what is done to both first, see `normalized`; with `l2` it is 2 − 2 cosine.
    """
    return (normalized(prediction, how) - normalized(target, how)).square().sum(1).mean()


@full_precision
def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean negative cosine of (N, D) embeddings (SimSiam, 2011.10566, equation 1)."""
    return -F.cosine_similarity(prediction, target, dim=1).mean()


@full_precision
def redundancy(first: Tensor, second: Tensor, off_diagonal: float, how: str) -> Tensor:
    """Distance of the cross-correlation from the identity (Barlow Twins, 2103.03230, equation 1).

    `first` and `second` are (N, D); `how` is what is done to them first, see `normalized`.
    """
    correlation = normalized(first, how).T @ normalized(second, how) / len(first)
    diagonal = correlation.diagonal()
    others = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum() + off_diagonal * others


@full_precision
def variance_term(z: Tensor) -> Tensor:
    """Mean hinge of each dimension's deviation at 1 (VICReg, 2105.04906, equation 1); z is (N, D)."""
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()


@full_precision
def covariance_term(z: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances over D (VICReg, equation 4); z is (N, D)."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    others = covariance.square().sum() - covariance.diagonal().square().sum()
    return others / z.shape[1]


@full_precision
@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Balanced soft assignments (N, K) of scores (N, K) (SwAV, 2006.09882, §3.1; Cuturi 2013).

    Rows sum to 1; after enough iterations each column sums to N / K.
    """
    # In logarithms: exp(score / ε) leaves the range of floats at small ε.
    q = scores / epsilon
    for _ in range(iterations):
        q = q.log_softmax(0)
        q = q.log_softmax(1)
    return q.exp()


@full_precision
def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (N, K) against distributions (N, K)."""
    return -(target * F.log_softmax(logits, dim=1)).sum(1).mean()


def swapped_prediction(
    logits: Sequence[Tensor], targets: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean `soft_cross_entropy` of each view's logits (N, K) against each other view's distributions.

    `targets` are the distributions (N, K) of the first views alone, so that with two of them and V
    logits there are 2 · (V − 1) pairs. Also returns the share of images whose first two distributions
    have the same largest entry.
    """
    losses = [
        soft_cross_entropy(logit, target)
        for view, logit in enumerate(logits)
        for other, target in enumerate(targets)
        if view != other
    ]
    agreement = (targets[0].argmax(1) == targets[1].argmax(1)).float().mean()
    return sum(losses[1:], losses[0]) / len(losses), agreement


@full_precision
def sigreg(z: Tensor, directions: Tensor, points: int) -> Tensor:
    """Sketched isotropic Gaussian regularization (LeJEPA, 2511.08544, algorithm 1).

    The Epps–Pulley statistic of z (N, D) along each of `directions` (D, M), averaged: N times the
    integral over t in −5..5, by the trapezoidal rule on `points` points, of the squared distance of
    the empirical characteristic function from the standard Gaussian's, weighted by the latter.
    """
    t = torch.linspace(-5, 5, points, dtype=z.dtype, device=z.device)
    gaussian = (-t.square() / 2).exp()
    angle = (z @ F.normalize(directions, dim=0))[:, :, None] * t
    # Real and imaginary part: the Gaussian's imaginary part is zero.
    distance = (angle.cos().mean(0) - gaussian).square() + angle.sin().mean(0).square()
    return torch.trapezoid(distance * gaussian, t, dim=1).mean() * len(z)
