"""The losses against lightly's, plain formulas and cases one can work out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

from benchmark.methods.losses import classification, info_nce, masked_reconstruction, nt_xent


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
