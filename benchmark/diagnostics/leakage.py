"""How much information batch statistics pass between samples, and whether the pretext task uses it.

The measures are this project's own, for the mechanism described in MoCo (1911.05722, A.9): dependence
on the other images of the batch, and pretext accuracy with and without a common BN group of positives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.core.randomness import keyed
from benchmark.diagnostics.collapse import ROUNDING
from benchmark.evaluation.features import finite, preserve_state
from benchmark.methods.base import QueryAndTarget

PLACES = 5
"""Samples z_i whose gradients the Jacobian ratio uses, spread over the batch and so over its groups."""

DIRECTIONS = 2
"""Random output directions of each. With 5 × 2 gradients the ratio has an error of about a tenth."""

REGROUPINGS = 20
"""Redraws of the groups for a swap gap, over all its batches."""


def batch_dependence(z: Tensor) -> float | None:
    """How far embeddings (M, N, D) of N images depend on their batch-mates, drawn M ≥ 2 times.

    The mean over images of 1 − cos between two redraws, over the mean of 1 − cos between two images of
    one redraw: 0 if batch-mates do not matter, 1 if nothing else does. None under collapse, where both
    are 0, or if an embedding is not finite.
    """
    unit = F.normalize(z.double(), dim=2)
    # For unit vectors the mean of 1 − cos over pairs is the (unbiased) variance, summed over dimensions,
    # which has no cancellation.
    between_redraws = float(unit.var(0).sum(1).mean())
    between_images = float(unit.var(1).sum(1).mean())
    if not between_images > ROUNDING**2:
        return None
    return _finite(between_redraws / between_images)


def jacobian_ratios(
    networks: Mapping[str, nn.Module], x: Tensor, seed: int
) -> dict[str, float | None]:
    """‖∂z_i/∂x_j‖ / ‖∂z_i/∂x_i‖ of each network, the mean over j ≠ i and over a few i.

    `x` (B, C, H, W) is one batch. The Frobenius norms are estimated from random directions v: the
    mean of ‖v ∂z_i/∂x_j‖² is the square of the norm. None if z_i does not depend on x_i either, or no
    gradient passes.
    """
    ratios: dict[str, float | None] = {}
    for name, network in networks.items():
        inputs = x.detach().clone().requires_grad_()
        with preserve_state(network), torch.enable_grad():
            z = network(inputs)
            ratios[name] = _jacobian_ratio(z, inputs, seed) if z.requires_grad else None
    return ratios


def _jacobian_ratio(z: Tensor, x: Tensor, seed: int) -> float | None:
    count = min(PLACES, len(x))
    places = torch.arange(count) * len(x) // count
    squares = torch.zeros(count, len(x), dtype=torch.float64, device=x.device)
    generator = keyed(seed, "diagnostics", "directions")
    for row, place in enumerate(places.tolist()):
        for _ in range(DIRECTIONS):
            direction = torch.randn(z.shape[1], generator=generator).to(z)
            (gradient,) = torch.autograd.grad(z[place] @ direction, x, retain_graph=True)
            squares[row] += gradient.double().flatten(1).square().sum(1)
    norms = squares.sqrt()
    own = norms[torch.arange(count), places]
    others = (norms.sum(1) - own) / (len(x) - 1)
    return _finite(float((others / own).mean()))


def same_group(z: Tensor, group: Tensor) -> tuple[float | None, float | None]:
    """Share of a sample's nearest neighbours that are in its own BN group, and that share by chance.

    `z` (P, B, D) are P batches, `group` (B,) the group of each place. A sample has as many neighbours,
    by cosine in its own batch, as its group has other members. None with groups of one sample.
    """
    batch = len(group)
    size = batch // len(group.unique())
    if size < 2 or not finite(z):
        return None, None
    unit = F.normalize(z.double(), dim=2)
    cosine = unit @ unit.transpose(1, 2)
    cosine.diagonal(dim1=1, dim2=2).fill_(-math.inf)
    nearest = cosine.topk(size - 1, dim=2).indices
    group = group.to(z.device)
    share = (group[nearest] == group[:, None]).double().mean()
    return float(share), (size - 1) / (batch - 1)


@torch.no_grad()
def pretext_accuracies(
    networks: QueryAndTarget,
    first: Tensor,
    second: Tensor,
    earlier: Tensor,
    seed: int,
    *,
    joint: bool = False,
) -> tuple[float, float] | None:
    """Pretext accuracy with both views of an image in one BN group, and with groups redrawn.

    Their difference is the swap gap. `first` and `second` (P, B, C, H, W) are two views of P batches.
    The redraw permutes the second views before their network and back after it, as MoCo's shuffling
    does (1911.05722, §3.3). A query is correct if its first view is nearer, by cosine, to its own second
    view than to all others: those of the batch or, if the task has a queue, those of `earlier` batches
    (K, B, C, H, W) of other images. `joint`: the views of a batch are one forward pass, if both networks
    are the same. None if an output is not finite.
    """
    joint = joint and networks.query is networks.target

    def outputs(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        if joint:
            query, target = _output(networks.query, torch.cat((one, other))).chunk(2)
            return query, target
        return _output(networks.query, one), _output(networks.target, other)

    queue = None
    if networks.queue:
        queue = torch.cat([_output(networks.target, part) for part in earlier])[: networks.queue]
    together, apart = [], []
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        together.append(_accuracy(*outputs(one, other), queue))
        for redraw in range(math.ceil(REGROUPINGS / len(first))):
            generator = keyed(seed, "diagnostics", "regrouping", number, redraw)
            order = torch.randperm(len(other), generator=generator).to(other.device)
            query, target = outputs(one, other[order])
            apart.append(_accuracy(query, target[order.argsort()], queue))
    means = sum(together) / len(together), sum(apart) / len(apart)
    return means if all(map(math.isfinite, means)) else None


def _output(network: nn.Module, x: Tensor) -> Tensor:
    with preserve_state(network):
        return F.normalize(network(x).double(), dim=1)


def _accuracy(query: Tensor, target: Tensor, queue: Tensor | None) -> float:
    """The share of queries nearest to their own target; NaN if a cosine is not finite."""
    others = (query @ target.T).fill_diagonal_(-math.inf) if queue is None else query @ queue.T
    own, nearest = (query * target).sum(1), others.amax(1)
    return float((own > nearest).double().mean()) if finite(own, nearest) else math.nan


def relative_change(losses: Tensor) -> float | None:
    """Change of an image's loss between two redraws of its batch-mates, over its mean loss.

    The mean over images and pairs of redraws of `losses` (M, N), from M ≥ 2 redraws of N images. None if
    a loss is not finite or the mean is 0.
    """
    losses = losses.double()
    redraws = len(losses)
    change = (losses[:, None] - losses[None]).abs().sum((0, 1)) / (redraws * (redraws - 1))
    return _finite(float((change / losses.mean(0)).mean()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
