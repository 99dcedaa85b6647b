"""Collapse is found where it was planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from torch import Tensor

from benchmark.diagnostics.collapse import (
    DELTA,
    EPSILON,
    alignment,
    correlation,
    cosines,
    embedding_std,
    lidar,
    measures,
    rank_me,
    uniformity,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(n: int, r: int, seed: int = 0) -> Tensor:
    """(n, r) float64 with orthonormal columns."""
    return torch.linalg.qr(normal(n, r, seed=seed).double())[0]


def rounded(*shape: int) -> Tensor:
    """One embedding for every image, but for float32 rounding of the last digit."""
    return normal(shape[-1]) * (1 + 1e-7 * normal(*shape, seed=1))


@pytest.mark.parametrize("width", [8, 128])
def test_spread_evenly_it_is_one_over_the_root_of_the_width(width: int) -> None:
    z = torch.randn(20_000, width, generator=torch.Generator().manual_seed(0))
    assert embedding_std(7 * z) == pytest.approx(1 / math.sqrt(width), rel=0.01)


def test_one_direction_is_collapse_whatever_the_lengths() -> None:
    lengths = torch.linspace(0.1, 9, 50)[:, None]
    assert embedding_std(lengths * torch.tensor([[1.0, -2.0, 0.5]])) == pytest.approx(0, abs=1e-7)


def test_two_opposite_points() -> None:
    z = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    assert embedding_std(z) == pytest.approx(0.5)


def test_what_is_not_finite_has_no_value() -> None:
    assert math.isnan(embedding_std(torch.tensor([[1.0, float("nan")], [1.0, 2.0]])))


def test_cosines_of_identical_views() -> None:
    z = normal(3000, 64)
    positive, negative = cosines(z, 5 * z)
    assert positive == pytest.approx(1)
    assert negative == pytest.approx(0, abs=1e-3)
    assert cosines(z, -z)[0] == pytest.approx(-1)


def test_cosines_against_every_pair() -> None:
    first, second = normal(30, 4) + 1, normal(30, 4, seed=1) + 1
    table = torch.cosine_similarity(first[:, None], second[None], dim=2)
    own = torch.eye(30, dtype=torch.bool)
    positive, negative = cosines(first, second)
    assert positive == pytest.approx(float(table[own].mean()), rel=1e-5)
    assert negative == pytest.approx(float(table[~own].mean()), rel=1e-5)


def test_the_negatives_of_a_single_image_have_no_cosine() -> None:
    positive, negative = cosines(normal(1, 4), normal(1, 4))
    assert positive == pytest.approx(1)
    assert math.isnan(negative)


@pytest.mark.parametrize("rank", [1, 2, 10, 32])
def test_rank_me_of_equal_singular_values_is_their_number(rank: int) -> None:
    z = 3 * orthonormal(400, rank) @ orthonormal(32, rank, seed=1).T
    assert rank_me(z) == pytest.approx(rank, rel=1e-4)


def test_rank_me_of_orthonormal_rows_is_the_width() -> None:
    assert rank_me(orthonormal(64, 64)) == pytest.approx(64, rel=1e-4)


def test_rank_me_of_an_isotropic_gaussian_is_nearly_the_width() -> None:
    found = rank_me(normal(20_000, 32))
    assert found is not None
    assert 31.9 < found <= 32.001


@pytest.mark.parametrize("shape", [(200, 16), (12, 40)])
@pytest.mark.parametrize("centred", [False, True])
def test_rank_me_against_numpy_and_scipy(shape: tuple[int, int], centred: bool) -> None:
    z = normal(*shape) * torch.linspace(0.1, 3, shape[1]) + 1
    array = z.double().numpy()
    s = np.linalg.svd(array - array.mean(0) if centred else array, compute_uv=False)
    share = s / s.sum() + EPSILON
    expected = math.exp(scipy.special.entr(share).sum())
    assert rank_me(z, centred) == pytest.approx(expected, rel=1e-9)
    assert rank_me(100 * z, centred) == pytest.approx(expected, rel=1e-5)


def test_a_common_offset_hides_the_rank_unless_it_is_taken_off() -> None:
    z = normal(500, 16)
    plain, shifted = rank_me(z + 1000), rank_me(z + 1000, centred=True)
    assert plain is not None
    assert plain < 1.2
    assert shifted == pytest.approx(rank_me(z, centred=True), rel=1e-3)


def test_the_rank_of_a_total_collapse() -> None:
    constant = normal(16).expand(50, 16)
    for z in (constant, rounded(50, 16)):
        assert rank_me(z) == pytest.approx(1, rel=1e-3)
        assert rank_me(z, centred=True) is None
    assert rank_me(torch.zeros(50, 16)) is None


def test_alignment_of_known_angles() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[0.0, 3.0], [0.0, -1.0]])
    assert alignment(first, second) == pytest.approx((2 + 4) / 2)
    assert alignment(first, 9 * first) == pytest.approx(0)


@pytest.mark.parametrize("count", [2, 7, 250, 613])
def test_uniformity_against_every_pair(count: int) -> None:
    z = normal(count, 5).double() + 0.5
    unit = [row / np.linalg.norm(row) for row in z.numpy()]
    terms = [
        math.exp(-2 * float(((unit[i] - unit[j]) ** 2).sum()))
        for i in range(count)
        for j in range(i + 1, count)
    ]
    assert uniformity(3 * z) == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-10)


def test_uniformity_between_collapse_and_an_even_spread() -> None:
    assert uniformity(normal(16).expand(600, 16)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8)
    # Each image twice, on orthogonal axes: 4 pairs are one point, the other 24 are √2 apart.
    twice = torch.eye(4).repeat(2, 1)
    assert uniformity(twice) == pytest.approx(math.log((4 + 24 * math.exp(-4)) / 28))
    assert uniformity(normal(2000, 256)) == pytest.approx(-4, abs=0.05)
    assert math.isnan(uniformity(normal(1, 4)))


def test_correlation_against_numpy() -> None:
    z = normal(300, 6) @ normal(6, 6, seed=1) + 5
    matrix = np.corrcoef(z.double().numpy(), rowvar=False)
    expected = (matrix[~np.eye(6, dtype=bool)] ** 2).mean()
    assert correlation(z) == pytest.approx(expected, rel=1e-9)
    # Neither the scale of a dimension nor constant ones matter.
    apart = z * torch.tensor([1e-3, 1, 1, 1, -50, 1])
    constant = torch.tensor([0.0, 7.3]).expand(300, 2)
    assert correlation(torch.cat([apart, constant], 1)) == pytest.approx(expected, rel=1e-4)


def test_correlation_of_planted_columns() -> None:
    column = normal(500, 1)
    assert correlation(column * torch.tensor([[1.0, -2.0, 0.1]]) + 4) == pytest.approx(1)
    assert correlation(orthonormal(500, 8) - orthonormal(500, 8).mean(0)) == pytest.approx(
        0, abs=1e-3
    )
    # Two equal columns and an unrelated one: 2 of the 6 pairs have a correlation of 1.
    own = normal(500, 1, seed=1)
    expected = (2 + 4 * np.corrcoef(column[:, 0], own[:, 0])[0, 1] ** 2) / 6
    assert correlation(torch.cat([column, column, own], 1)) == pytest.approx(expected, rel=1e-5)


def test_fewer_than_two_dimensions_that_vary_have_no_correlation() -> None:
    assert correlation(torch.cat([normal(50, 1), torch.full((50, 3), 0.1)], 1)) is None
    assert correlation(rounded(50, 16)) is None
    assert correlation(torch.zeros(50, 16)) is None


def classes(points: Tensor, q: int, noise: float) -> Tensor:
    """(n, q, D): q views of each of n points, apart by isotropic noise."""
    n, width = points.shape
    return points[:, None] + noise * normal(n, q, width, seed=2)


@pytest.mark.parametrize("kinds", [2, 3, 9])
def test_lidar_counts_the_directions_that_tell_images_apart(kinds: int) -> None:
    # Corners of a simplex have kinds − 1 equal directions about their centre.
    corners = torch.eye(32)[:kinds].repeat(40, 1)
    assert lidar(classes(corners, 4, 1e-4)) == pytest.approx(kinds - 1, rel=1e-3)


def test_lidar_of_a_single_direction_is_one() -> None:
    line = torch.linspace(-1, 1, 100)[:, None] * normal(1, 16)
    assert lidar(classes(line, 4, 1e-4)) == pytest.approx(1, rel=1e-3)


def test_lidar_of_noise_alone_is_the_width() -> None:
    # No direction is told apart better than another: the rank says nothing about how well.
    assert lidar(classes(torch.zeros(4000, 8), 5, 1.0)) == pytest.approx(8, rel=0.01)


def test_lidar_leaves_out_directions_that_vary_within_images() -> None:
    points = torch.zeros(1000, 16)
    points[:, :3] = normal(1000, 3)
    views = points[:, None].repeat(1, 10, 1)
    views[:, :, 3:] += 3 * normal(1000, 10, 13, seed=1)
    rank, told_apart = rank_me(views.flatten(0, 1)), lidar(views)
    assert rank is not None
    assert rank > 13
    assert told_apart == pytest.approx(3, rel=0.05)


def test_lidar_against_the_generalised_eigenproblem() -> None:
    views = classes(normal(60, 7) * torch.linspace(0.01, 1, 7) + 2, 3, 0.1)
    array = views.double().numpy()
    between = np.cov(array.mean(1), rowvar=False, bias=True)
    within = np.mean([np.cov(image, rowvar=False, bias=True) for image in array], axis=0)
    spectrum = scipy.linalg.eigh(between, within + DELTA * np.eye(7), eigvals_only=True)
    share = spectrum / spectrum.sum() + EPSILON
    assert lidar(views) == pytest.approx(math.exp(scipy.special.entr(share).sum()), rel=1e-8)


def test_lidar_of_large_embeddings_keeps_its_value() -> None:
    # They fill 4 of 16 dimensions, and the last digit of their scatter is far above δ.
    views = classes(normal(200, 4), 3, 0.5).double() @ orthonormal(16, 4).T
    assert lidar(1e9 * views) == pytest.approx(lidar(1e3 * views), rel=1e-3)


def test_lidar_of_a_total_collapse_has_no_value() -> None:
    assert lidar(normal(16).expand(20, 4, 16)) is None
    assert lidar(rounded(20, 4, 16)) is None
    assert lidar(torch.zeros(20, 4, 16)) is None
    # The views differ but no image does from another.
    assert lidar(normal(4, 16).expand(20, 4, 16)) is None


NEED_VIEWS = {"positive_cosine", "negative_cosine", "alignment", "lidar"}


def missing(found: dict[str, float | None]) -> set[str]:
    return {name for name, value in found.items() if value is None}


def test_all_measures_are_those_of_their_functions() -> None:
    clean = normal(300, 12)
    views = classes(clean, 3, 0.4)
    found = measures(clean, views)
    assert found == {
        "embedding_std": embedding_std(clean),
        "positive_cosine": cosines(views[:, 0], views[:, 1])[0],
        "negative_cosine": cosines(views[:, 0], views[:, 1])[1],
        "rankme": rank_me(clean),
        "rankme_centred": rank_me(clean, centred=True),
        "alignment": alignment(views[:, 0], views[:, 1]),
        "uniformity": uniformity(clean),
        "correlation": correlation(clean),
        "lidar": lidar(views),
    }
    assert None not in found.values()
    assert measures(clean.double(), views.double()) == found  # float64 within
    assert missing(measures(clean, None)) == NEED_VIEWS


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_single_value_that_is_not_finite_leaves_no_measure(bad: float) -> None:
    clean = normal(300, 12)
    views = classes(clean, 2, 0.1)
    broken, broken_views = clean.clone(), views.clone()
    broken[-1, 3] = broken_views[-1, 1, 3] = bad
    found = measures(broken, views)
    assert missing(found) == set(found) - NEED_VIEWS
    assert missing(measures(clean, broken_views)) == NEED_VIEWS


def test_a_row_of_zeros_has_no_direction() -> None:
    clean = normal(300, 12)
    views = classes(clean, 2, 0.1)
    clean[17], views[17] = 0, 0
    normalised = {"embedding_std", "uniformity", "positive_cosine", "negative_cosine", "alignment"}
    assert missing(measures(clean, views)) == normalised


def test_a_total_collapse_is_told_by_what_is_still_defined() -> None:
    found = measures(rounded(300, 12), rounded(300, 2, 12))
    assert found.pop("embedding_std") == pytest.approx(0, abs=1e-6)
    assert found.pop("positive_cosine") == pytest.approx(1)
    assert found.pop("negative_cosine") == pytest.approx(1)
    assert found.pop("rankme") == pytest.approx(1, rel=1e-3)
    assert found.pop("alignment") == pytest.approx(0, abs=1e-6)
    assert found.pop("uniformity") == pytest.approx(0, abs=1e-6)
    assert found == {"rankme_centred": None, "correlation": None, "lidar": None}
