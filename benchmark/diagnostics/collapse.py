"""Whether embeddings have collapsed.

Every measure is computed in float64 on the embeddings' device. For 2000 embeddings, 256 wide, with
500 × 10 views all measures take about 0.1 s on one core.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.evaluation.features import finite

EPSILON = 1e-7
"""Added to each share of a spectrum (RankMe, 2210.02885), so that a share of 0 has a logarithm.

It is near the relative resolution of float32 (2⁻²³): smaller shares are rounding errors. A thousand
empty dimensions raise the rank by less than 0.2 %.
"""

DELTA = 1e-4
"""δ of LiDAR (2312.04000), added to the within-class scatter so that it can be inverted.

It has the embeddings' unit squared: variation within a class of much less than √δ = 0.01 has no effect.
"""

ROUNDING = 1e-6
"""Variation below this share of the embeddings' size counts as none.

It is about ten times float32's resolution, since an image's place in the batch may change its embedding
by as much. Without it, a collapsed network would have the spectrum of its rounding errors, which has a
high rank.
"""

CHUNK = 250
"""Rows of the matrix of all pairs that are computed at once."""


def embedding_std(z: Tensor) -> float:
    """Mean over dimensions of the deviation over samples of unit-length embeddings (N, D).

    About 1/√D if directions are spread evenly, 0 if all embeddings have the same direction (SimSiam,
    2011.10566, §4.1). NaN if an embedding is zero or not finite.
    """
    return float(_unit(z).std(0, unbiased=False).mean())


def cosines(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Mean cosine of positives and of negatives, in −1..1, for two views (N, D) of the same images.

    Positives are cos(z_i, z_i′), negatives cos(z_i, z_j′) over all j ≠ i; both are 1 under collapse.
    NaN if an embedding is zero or not finite; the second also if N is 1.
    """
    one, other = _unit(first), _unit(second)
    own = (one * other).sum()
    # The sum over all pairs is the product of the sums: no N × N matrix is needed.
    every = one.sum(0) @ other.sum(0)
    n = len(one)
    return float(own) / n, float(every - own) / (n * (n - 1)) if n > 1 else math.nan


def rank_me(z: Tensor, centred: bool = False) -> float | None:
    """RankMe of embeddings (N, D): the exponential of the entropy of their singular values.

    exp(−Σ p log p) with p = s / Σs + EPSILON over the min(N, D) singular values s (2210.02885):
    between 1 and min(N, D). `centred` subtracts the mean over samples, which is otherwise a direction of
    its own. None if all singular values are 0 up to rounding, or a value is not finite.
    """
    z = z.double()
    if not finite(z):
        return None
    rows = z - z.mean(0) if centred else z
    if _size(rows) <= ROUNDING * _size(z):
        return None
    # The Gram matrix's eigenvalues would lose half of the digits, and are hardly faster.
    return _smooth_rank(torch.linalg.svdvals(rows))


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of positives ‖ẑ_i − ẑ_i′‖², in 0..4, for two views (N, D).

    (2005.10242, with α = 2.) NaN if an embedding is zero or not finite.
    """
    return float((_unit(first) - _unit(second)).square().sum(1).mean())


def uniformity(z: Tensor) -> float:
    """log of the mean of exp(−2 ‖ẑ_i − ẑ_j‖²) over pairs i < j of embeddings (N, D), in −8..0.

    0 under collapse, about −4 if many dimensions are spread evenly (2005.10242, with t = 2). NaN if an
    embedding is zero or not finite, or N is 1.
    """
    unit = _unit(z)
    n = len(unit)
    total = torch.zeros((), dtype=unit.dtype, device=unit.device)
    for start in range(0, n, CHUNK):
        # −2 ‖ẑ_i − ẑ_j‖² = 4 (cos − 1); pairs with earlier columns are already counted.
        exponent = (unit[start : start + CHUNK] @ unit[start:].T).sub_(1).mul_(4)
        total += exponent.exp_().triu_(1).sum()
    return float((total / (n * (n - 1) / 2)).log()) if n > 1 else math.nan


def correlation(z: Tensor) -> float | None:
    """Mean squared correlation of two different dimensions of embeddings (N, D), in 0..1.

    (2105.00470.) Dimensions whose deviation is below ROUNDING of the largest dimension's root mean
    square are left out: a constant has no correlation. None if fewer than two are left, or a value is
    not finite.
    """
    z = z.double()
    if not finite(z):
        return None
    centred = z - z.mean(0)
    deviation = centred.square().mean(0).sqrt()
    varying = deviation > ROUNDING * z.square().mean(0).sqrt().max()
    count = int(varying.sum())
    if count < 2:
        return None
    standard = centred[:, varying] / deviation[varying]
    matrix = standard.T @ standard / len(z)
    off_diagonal = matrix.square().sum() - matrix.diagonal().square().sum()
    return float(off_diagonal) / (count * (count - 1))


def lidar(views: Tensor) -> float | None:
    """LiDAR of embeddings (n, q, D) of q views of n images: in how many directions images differ.

    Each image is a class. With Σ_b the covariance of the class means (a mean over n) and Σ_w that of
    the views about their class's mean (a mean over n · q), it is the exponential of the entropy, as in
    RankMe, of the eigenvalues of (Σ_w + δI)^−½ Σ_b (Σ_w + δI)^−½ (2312.04000): between 1 and
    min(n − 1, D). None if the class means are equal up to rounding, or a value is not finite.
    """
    views = views.double()
    if not finite(views):
        return None
    means = views.mean(1)
    between = means - means.mean(0)
    if _size(between) <= ROUNDING * _size(means):
        return None
    within = (views - means[:, None]).flatten(0, 1)
    scatter = within.T @ within / len(within)
    scatter.diagonal().add_(DELTA)
    values, vectors = torch.linalg.eigh(scatter)
    # An eigenvalue is below δ only by rounding. A rotation does not change a matrix's spectrum, so the
    # last factor of the inverse root, Vᵀ, is left out.
    whitened = between @ (vectors / values.clamp_min(DELTA).sqrt())
    spectrum = torch.linalg.eigvalsh(whitened.T @ whitened / len(means))
    return _smooth_rank(spectrum.clamp_min(0))


def measures(clean: Tensor, views: Tensor | None) -> dict[str, float | None]:
    """Every measure of this file by name, None if it is not defined or not finite.

    `clean` (N, D) are embeddings of images without augmentation. `views` (n, q, D) are those of q ≥ 2
    augmented views of each of n images, of which the first two are the positives. Without views,
    measures of positives are None.
    """
    values: dict[str, float | None] = {
        "embedding_std": embedding_std(clean),
        "positive_cosine": None,
        "negative_cosine": None,
        "rankme": rank_me(clean),
        "rankme_centred": rank_me(clean, centred=True),
        "alignment": None,
        "uniformity": uniformity(clean),
        "correlation": correlation(clean),
        "lidar": None,
    }
    if views is not None:
        first, second = views[:, 0], views[:, 1]
        values["positive_cosine"], values["negative_cosine"] = cosines(first, second)
        values["alignment"] = alignment(first, second)
        values["lidar"] = lidar(views)
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in values.items()
    }


def _unit(z: Tensor) -> Tensor:
    """Rows of unit length, NaN for a row of zeros."""
    z = z.double()
    return z / z.norm(dim=1, keepdim=True)


def _size(z: Tensor) -> float:
    return float(torch.linalg.vector_norm(z))


def _smooth_rank(spectrum: Tensor) -> float:
    """The exponential of the entropy of a spectrum's shares (values ≥ 0, not all 0)."""
    share = spectrum / spectrum.sum() + EPSILON
    return float((-(share * share.log()).sum()).exp())
