"""The losses against lightly's, plain formulas and cases one can work out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import (
    BarlowTwinsLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    swav_loss,
    vicreg_loss,
)
from lightly.loss.lejepa_loss import SIGReg
from scipy.linalg import hadamard

from benchmark.methods.losses import (
    classification,
    contrast_in_batch,
    covariance_term,
    info_nce,
    masked_reconstruction,
    negative_cosine,
    normalized,
    nt_xent,
    redundancy,
    regression,
    sigreg,
    sinkhorn,
    soft_cross_entropy,
    variance_term,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def plain_nt_xent(first, second, temperature):
    """Equation 1 of the paper, one embedding at a time: its mean, and the share of right guesses."""
    z = [row / row.norm() for row in [*first, *second]]
    n, losses, right = len(first), [], 0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        scores = {k: (z[i] @ z[k]) / temperature for k in range(2 * n) if k != i}
        losses.append(-scores[partner] + torch.stack(list(scores.values())).exp().sum().log())
        right += max(scores, key=lambda k: scores[k].item()) == partner
    return torch.stack(losses).mean(), right / (2 * n)


def assert_same_loss(found, expected, inputs):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, retain_graph=True),
        torch.autograd.grad(expected, inputs),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent(temperature):
    first = random(6, 4)
    second = (first + 1.5 * random(6, 4, seed=1)).detach().requires_grad_()
    found, accuracy = nt_xent(first, second, temperature)
    assert_same_loss(found, NTXentLoss(temperature)(first, second), [first, second])
    expected, right = plain_nt_xent(first, second, temperature)
    assert_same_loss(found, expected, [first, second])
    assert float(accuracy) == pytest.approx(right)
    assert 0 < right < 1
    assert not accuracy.requires_grad


@pytest.mark.parametrize("n", [2, 8])
def test_nt_xent_limits(n):
    collapsed = torch.ones(n, 5)
    assert float(nt_xent(collapsed, 3 * collapsed, 0.1)[0]) == pytest.approx(math.log(2 * n - 1))
    apart = torch.eye(n)
    perfect = -math.log(math.e**2 / (math.e**2 + 2 * n - 2))
    loss, accuracy = nt_xent(apart, 2 * apart, 0.5)
    assert float(loss) == pytest.approx(perfect)
    assert float(accuracy) == 1
    assert float(nt_xent(apart, -apart, 0.5)[1]) == 0
    # A partner does not stand at its own place, and nothing is its own partner.
    assert float(nt_xent(apart, apart.roll(1, 0), 0.01)[0]) > 50


def test_info_nce():
    temperature = 0.2
    query, raw = random(6, 4), random(6, 4, seed=1)
    key = F.normalize(query.detach() + raw.detach(), dim=1)
    negatives = F.normalize(random(10, 4, seed=2), dim=1).detach()
    found, accuracy = info_nce(F.normalize(query, dim=1), key, negatives, temperature)

    losses, right = [], 0
    for q, k in zip(query, key, strict=True):
        q = q / q.norm()
        positive = (q @ k / temperature).exp()
        others = torch.stack([(q @ negative / temperature).exp() for negative in negatives])
        losses.append(-(positive / (positive + others.sum())).log())
        right += bool(positive > others.max())
    assert_same_loss(found, torch.stack(losses).mean(), [query])
    assert float(accuracy) == pytest.approx(right / 6)
    assert 0 < right < 6

    oracle = NTXentLoss(temperature, memory_bank_size=(10, 4))
    oracle.memory_bank.bank = negatives.clone()
    assert_same_loss(found, oracle(query, key), [query])


def test_info_nce_limits():
    same = F.normalize(torch.ones(3, 4), dim=1)
    loss = info_nce(same, same, same[:1].expand(7, 4), 0.2)[0]
    assert float(loss) == pytest.approx(math.log(8))
    apart = torch.eye(4)
    loss, accuracy = info_nce(apart[:1], apart[:1], apart[1:], 1.0)
    assert float(loss) == pytest.approx(-math.log(math.e / (math.e + 3)))
    assert float(accuracy) == 1
    assert float(info_nce(apart[:1], apart[1:2], apart[:1], 1.0)[1]) == 0


def test_masked_reconstruction_counts_hidden_patches_alone():
    prediction, target = random(3, 6, 4), random(3, 6, 4, seed=1).detach()
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[0, :4] = hidden[1, 2:] = hidden[2, 1:5] = True
    squares = [
        (prediction[n, p, d] - target[n, p, d]) ** 2
        for n in range(3)
        for p in range(6)
        for d in range(4)
        if hidden[n, p]
    ]
    found = masked_reconstruction(prediction, target, hidden)
    assert_same_loss(found, torch.stack(squares).mean(), [prediction])


def test_classification():
    logits, target = random(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    found, accuracy = classification(logits, target)
    rows = [row.exp()[t] / row.exp().sum() for row, t in zip(logits, target, strict=True)]
    assert_same_loss(found, -torch.stack(rows).log().mean(), [logits])
    right = sum(
        int(t) == row.tolist().index(max(row)) for row, t in zip(logits, target, strict=True)
    )
    assert float(accuracy) == pytest.approx(right / 6)
    assert not accuracy.requires_grad


def uncorrelated():
    """Seven columns of ±1 (8, 7): means 0, variances 1, no correlation."""
    return torch.tensor(hadamard(8)[:, 1:], dtype=torch.float32)


def plain_contrast(query, key, temperature):
    """Equation 1 of MoCo v3, one query at a time: its mean, and the share of right guesses."""
    losses, right = [], 0
    for i, q in enumerate(query):
        scores = [(q @ k) / q.norm() / k.norm() / temperature for k in key]
        losses.append(-(scores[i].exp() / sum(score.exp() for score in scores)).log())
        right += scores[i].item() == max(score.item() for score in scores)
    return sum(losses) / len(losses), right / len(losses)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_contrast_in_batch(temperature):
    query = random(6, 4)
    key = (query + 1.5 * random(6, 4, seed=1)).detach().requires_grad_()
    found, accuracy = contrast_in_batch(query, key, temperature)
    expected, right = plain_contrast(query, key, temperature)
    assert_same_loss(found, expected, [query, key])
    assert float(accuracy) == pytest.approx(right)
    assert 0 < right < 1
    assert not accuracy.requires_grad


@pytest.mark.parametrize("n", [2, 8])
def test_contrast_in_batch_limits(n):
    collapsed, apart = torch.ones(n, 8), torch.eye(n)
    assert float(contrast_in_batch(collapsed, 3 * collapsed, 0.1)[0]) == pytest.approx(math.log(n))
    loss, accuracy = contrast_in_batch(apart, 2 * apart, 1.0)
    assert float(loss) == pytest.approx(-math.log(math.e / (math.e + n - 1)))
    assert float(accuracy) == 1
    assert float(contrast_in_batch(apart, apart.roll(1, 0), 0.01)[0]) > 50


def plainly_normalized(z, how):
    """One row, or one column, at a time."""
    if how == "l2":
        return torch.stack([row / row.square().sum().sqrt() for row in z])
    if how == "layer":
        return plainly_normalized(z.T, "batch").T
    if how == "batch":
        columns = []
        for column in z.T:
            centred = column - column.mean()
            columns.append(centred / (centred.square().mean() + 1e-5).sqrt())
        return torch.stack(columns, 1)
    return z


@pytest.mark.parametrize("how", ["none", "l2", "layer", "batch"])
def test_normalized(how):
    z = random(6, 4)
    weights = random(6, 4, seed=1).detach()
    found, expected = normalized(3 * z + 1, how), plainly_normalized(3 * z + 1, how)
    assert_same_loss((found * weights).sum(), (expected * weights).sum(), [z])


@pytest.mark.parametrize("how", ["none", "l2", "layer", "batch"])
def test_regression(how):
    prediction, target = random(6, 4), random(6, 4, seed=1)
    found = regression(prediction, target, how)
    pairs = zip(plainly_normalized(prediction, how), plainly_normalized(target, how), strict=True)
    distances = [(p - t) @ (p - t) for p, t in pairs]
    assert_same_loss(found, sum(distances) / 6, [prediction, target])
    if how == "l2":
        cosine = -NegativeCosineSimilarity()(prediction, target)
        assert_same_loss(regression(prediction, target, how), 2 - 2 * cosine, [prediction, target])


def test_negative_cosine():
    prediction, target = random(6, 4), random(6, 4, seed=1)
    pairs = zip(prediction, target, strict=True)
    cosines = [p @ t / (p @ p).sqrt() / (t @ t).sqrt() for p, t in pairs]
    both = [prediction, target]
    assert_same_loss(negative_cosine(prediction, target), -sum(cosines) / 6, both)
    oracle = NegativeCosineSimilarity()
    assert_same_loss(negative_cosine(prediction, target), oracle(prediction, target), both)


@pytest.mark.parametrize(("turn", "cosine"), [(0, 1.0), (1, 0.0), (2, -1.0)])
def test_limits_of_regression_and_cosine(turn, cosine):
    """Identical, orthogonal and opposite views of any length."""
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]]).matrix_power(turn)
    view = random(5, 2).detach()
    other = 3 * view @ quarter
    assert float(negative_cosine(view, other)) == pytest.approx(-cosine, abs=1e-6)
    assert float(regression(view, other, "l2")) == pytest.approx(2 - 2 * cosine, abs=1e-6)
    squares = float(view.square().sum(1).mean())
    # |3 R v - v|² = (10 - 6 cos) |v|²
    assert float(regression(view, other, "none")) == pytest.approx((10 - 6 * cosine) * squares)


@pytest.mark.parametrize("how", ["none", "batch"])
def test_redundancy(how):
    first, second = random(6, 4), random(6, 4, seed=1)
    z, other = (plainly_normalized(view, how) for view in (first, second))
    expected = torch.zeros(())
    for i in range(4):
        for j in range(4):
            c = sum(z[n, i] * other[n, j] for n in range(6)) / 6
            expected = expected + ((1 - c) ** 2 if i == j else 0.3 * c**2)
    assert_same_loss(redundancy(first, second, 0.3, how), expected, [first, second])
    if how == "batch":
        oracle = BarlowTwinsLoss(0.3)(first, second)
        assert_same_loss(redundancy(first, second, 0.3, how), oracle, [first, second])


def test_redundancy_limits():
    apart = uncorrelated()
    assert float(redundancy(apart, 2 * apart, 0.3, "batch")) == pytest.approx(0, abs=1e-6)
    # Opposite views: each of the 7 dimensions is at -1 in place of 1.
    assert float(redundancy(apart, -apart, 0.3, "batch")) == pytest.approx(4 * 7, abs=1e-3)
    # One dimension 7 times: every pair of the 7 · 6 is at 1 in place of 0.
    same = apart[:, :1].expand(8, 7)
    assert float(redundancy(same, same, 0.3, "batch")) == pytest.approx(0.3 * 42, abs=1e-3)
    # Collapsed: no correlation at all.
    collapsed = torch.ones(8, 7)
    assert float(redundancy(collapsed, collapsed, 0.3, "batch")) == pytest.approx(7)


def test_variance_and_covariance_terms():
    z = random(6, 4)
    columns = [(column - column.mean()) for column in z.T]
    deviations = [((c @ c) / 5 + 1e-4).sqrt() for c in columns]
    hinges = [1 - d if d < 1 else torch.zeros(()) for d in deviations]
    assert 0 < sum(bool(hinge > 0) for hinge in hinges) < 4
    assert_same_loss(variance_term(z), sum(hinges) / 4, [z])
    assert_same_loss(variance_term(z), vicreg_loss.variance_loss(z), [z])
    squares = [((columns[i] @ columns[j]) / 5) ** 2 for i in range(4) for j in range(4) if i != j]
    assert_same_loss(covariance_term(z), sum(squares) / 4, [z])
    assert_same_loss(covariance_term(z), vicreg_loss.covariance_loss(z), [z])


def test_variance_and_covariance_limits():
    apart, collapsed = uncorrelated(), torch.ones(8, 7)
    variance = 8 / 7  # of a column of ±1, unbiased
    assert float(variance_term(apart)) == 0
    assert float(variance_term(collapsed)) == pytest.approx(1 - 0.01)
    assert float(variance_term(apart / 10)) == pytest.approx(
        1 - (variance / 100 + 1e-4) ** 0.5, rel=1e-5
    )
    assert float(covariance_term(apart)) == pytest.approx(0, abs=1e-6)
    assert float(covariance_term(collapsed)) == 0
    same = apart[:, :1].expand(8, 7)
    assert float(covariance_term(same)) == pytest.approx(6 * variance**2)


@pytest.mark.parametrize(("n", "k"), [(8, 3), (6, 12)])
def test_sinkhorn(n, k):
    scores = F.normalize(random(n, 5), dim=1) @ F.normalize(random(k, 5, seed=1), dim=1).T
    found = sinkhorn(scores, 0.05, 3)
    assert not found.requires_grad
    torch.testing.assert_close(
        found, swav_loss.sinkhorn(scores.detach(), 3, 0.05), atol=1e-5, rtol=1e-5
    )
    q = (scores.detach().double() / 0.05).exp().T  # prototypes × samples, as in the paper
    for _ in range(3):
        for row in q:
            row /= row.sum() * k
        for column in q.T:
            column /= column.sum() * n
    torch.testing.assert_close(found.double(), q.T * n, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("n", "k"), [(8, 3), (6, 12), (6, 6)])
def test_sinkhorn_limits(n, k):
    scores = random(n, k).detach()
    found = sinkhorn(scores, 0.5, 200)
    torch.testing.assert_close(found.sum(1), torch.ones(n))
    torch.testing.assert_close(found.sum(0), torch.full((k,), n / k))
    torch.testing.assert_close(sinkhorn(scores, 0.5, 3).sum(1), torch.ones(n))
    # Where nothing tells the prototypes apart, nobody prefers one.
    torch.testing.assert_close(sinkhorn(torch.ones(n, k), 0.05, 3), torch.full((n, k), 1 / k))
    # Only differences count, however large the scores are.
    torch.testing.assert_close(
        sinkhorn(scores + 1000, 0.5, 3), sinkhorn(scores, 0.5, 3), atol=1e-3, rtol=1e-3
    )
    # Far below the smallest float.
    sharp = sinkhorn(scores, 0.002, 3)
    torch.testing.assert_close(sharp.sum(1), torch.ones(n))
    # All prefer the first, and yet each prototype gets its share.
    crowded = torch.zeros(n, k)
    crowded[:, 0] = 1
    torch.testing.assert_close(sinkhorn(crowded, 0.05, 3), torch.full((n, k), 1 / k))
    assert torch.equal(sinkhorn(torch.eye(k), 0.01, 3).round(decimals=4), torch.eye(k))


def test_swapped_prediction():
    scores = [F.normalize(random(8, 5, seed=s), dim=1) @ random(5, 4, seed=9) for s in (0, 1)]
    scores = [score.detach().requires_grad_() for score in scores]
    targets = [sinkhorn(score, 0.05, 3) for score in scores]
    found = [soft_cross_entropy(scores[a] / 0.1, targets[b]) for a, b in ((0, 1), (1, 0))]
    expected = SwaVLoss()(scores, []).squeeze()
    assert_same_loss((found[0] + found[1]) / 2, expected, scores)


def test_soft_cross_entropy():
    logits, target = random(6, 4), random(6, 4, seed=1).softmax(1).detach()
    terms = []
    for row, weights in zip(logits, target, strict=True):
        shares = row.exp() / row.exp().sum()
        terms += [-weight * share.log() for share, weight in zip(shares, weights, strict=True)]
    assert_same_loss(soft_cross_entropy(logits, target), sum(terms) / 6, [logits])
    oracle = F.cross_entropy(logits, target)
    assert_same_loss(soft_cross_entropy(logits, target), oracle, [logits])
    # Least where the student has the teacher's distribution, and then it is the entropy.
    entropy = -(target * target.log()).sum(1).mean()
    assert float(soft_cross_entropy(target.log(), target)) == pytest.approx(float(entropy))
    assert float(soft_cross_entropy(logits.detach(), target)) > float(entropy)


def plain_sigreg(z, directions, points):
    """Algorithm 1: complex exponentials, one direction and one point at a time, then trapezia."""
    n, statistics = len(z), []
    step = 10 / (points - 1)
    for direction in directions.T:
        x = z @ (direction / (direction @ direction).sqrt())
        heights = []
        for place in range(points):
            t = -5 + place * step
            empirical = (1j * t * x).exp().sum() / n
            gaussian = math.exp(-(t**2) / 2)
            heights.append((empirical - gaussian).abs() ** 2 * gaussian)
        area = sum((a + b) / 2 * step for a, b in itertools.pairwise(heights))
        statistics.append(n * area)
    return sum(statistics) / len(statistics)


@pytest.mark.parametrize("points", [8, 17])
def test_sigreg(points):
    z, directions = random(12, 4), random(4, 6, seed=1).detach()
    expected = plain_sigreg(z, directions, points)
    assert_same_loss(sigreg(z, directions, points), expected, [z])


def test_sigreg_as_lightlys():
    z = random(12, 4)
    oracle = SIGReg(knots=9, t_max=5.0, num_vectors=6)  # on the positive half
    torch.manual_seed(0)
    expected = oracle(z)
    torch.manual_seed(0)
    assert_same_loss(sigreg(z, torch.randn(4, 6), 17), expected, [z])


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: nt_xent(a, b, 0.1)[0],
        lambda a, b: contrast_in_batch(a, b, 0.1)[0],
        lambda a, b: regression(a, b, "batch"),
        lambda a, b: redundancy(a, b, 0.005, "batch"),
        lambda a, b: covariance_term(a) + variance_term(b),
        lambda a, b: sinkhorn(a, 0.5, 3).square().sum(),
        lambda a, b: sigreg(a, b.T, 17),
    ],
)
def test_losses_are_computed_in_full_precision_within_bfloat16(loss):
    a, b = random(16, 8).detach().bfloat16(), random(16, 8, seed=1).detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(a, b)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(a.float(), b.float()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sigreg_limits(seed):
    """Against integrals over the whole line: ∫ exp(-a t²/2) dt = √(2π / a)."""
    n, area = 4000, math.sqrt(2 * math.pi)
    gaussian = random(n, 8, seed=seed).detach()
    directions = random(8, 64, seed=seed + 3).detach()
    # A sample misses φ(t) by 1 - φ(t)² over n in the mean, whatever n is.
    assert float(sigreg(gaussian, directions, 41)) == pytest.approx(area * (1 - 3**-0.5), rel=0.4)
    # All in one point: |1 - φ|².
    collapsed = float(sigreg(torch.zeros(n, 8), directions, 41))
    assert collapsed == pytest.approx(n * area * (1 - 2 * 2**-0.5 + 3**-0.5), rel=1e-3)
    # Twice as wide: |φ(2t) - φ(t)|².
    wide = float(sigreg(2 * gaussian, directions, 41))
    assert wide == pytest.approx(n * area * (9**-0.5 - 2 * 6**-0.5 + 3**-0.5), rel=0.1)
    # Off centre by 1: |φ(t) (exp(it) - 1)|² = φ² (2 - 2 cos t), along one axis.
    moved = gaussian.clone()
    moved[:, 0] += 1
    axis = torch.eye(8)[:, :1]
    off = n * area * 3**-0.5 * (2 - 2 * math.exp(-1 / 6))
    assert float(sigreg(moved, axis, 41)) == pytest.approx(off, rel=0.1)
