"""The nearest-neighbour classifier against a plain loop and scikit-learn."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from benchmark.evaluation import knn
from benchmark.evaluation.knn import knn_accuracy
from tests.helpers.memory import growth


def clouds(n, seed, classes=5, width=6, spread=2.5):
    """Overlapping clouds of random lengths: cosine and Euclidean neighbours differ."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 2 * torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    x = centres[labels] + spread * torch.randn(n, width, generator=generator)
    return x * (0.1 + 3 * torch.rand(n, 1, generator=generator)), labels


def plain(bank, bank_labels, queries, query_labels, k, temperature):
    right = 0
    for query, truth in zip(queries.tolist(), query_labels.tolist(), strict=True):
        cosines = sorted(
            (
                -sum(a * b for a, b in zip(query, row, strict=True))
                / math.hypot(*query)
                / math.hypot(*row),
                label,
            )
            for row, label in zip(bank.tolist(), bank_labels.tolist(), strict=True)
        )
        votes = defaultdict(float)
        for negative, label in cosines[:k]:
            votes[label] += math.exp(-negative / temperature)
        right += max(votes, key=lambda label: votes[label]) == truth
    return right / len(queries)


@pytest.mark.parametrize("temperature", [0.07, 10.0])
def test_knn_is_a_plain_loop(temperature, monkeypatch):
    bank, queries = clouds(90, 0), clouds(40, 1)
    ks = [1, 5, 60]
    expected = [plain(*bank, *queries, k, temperature) for k in ks]
    assert len(set(expected)) > 1
    assert all(0.2 < score < 1 for score in expected)
    assert knn_accuracy(bank, queries, ks, temperature) == pytest.approx(expected)
    monkeypatch.setattr(knn, "CHUNK", 7)  # the last part is smaller
    assert knn_accuracy(bank, queries, ks, temperature) == pytest.approx(expected)


def test_temperature_weighs_the_votes():
    # Two far neighbours of class 1 outvote a near one of class 0 unless the weights are sharp.
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.5], [1.0, 0.6]])
    labels, query = torch.tensor([0, 1, 1]), (torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    for temperature, right in ((0.01, 1.0), (10.0, 0.0)):
        assert knn_accuracy((bank, labels), query, [3], temperature) == [right]


@pytest.mark.parametrize("k", [1, 20])
def test_knn_is_scikit_learns(k):
    (bank, labels), (queries, truth) = clouds(300, 0), clouds(200, 1)
    oracle = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(bank.double().numpy(), labels.numpy())
    expected = float((oracle.predict(queries.double().numpy()) == truth.numpy()).mean())
    assert knn_accuracy((bank, labels), (queries, truth), [k], 0.07) == [pytest.approx(expected)]


def test_more_neighbours_than_there_are():
    bank, queries = clouds(10, 0), clouds(20, 1)
    found = knn_accuracy(bank, queries, [10, 200], 0.07)
    assert found[0] == found[1]


def test_length_of_an_embedding_does_not_matter():
    (bank, labels), queries = clouds(90, 0), clouds(40, 1)
    scaled = bank * torch.linspace(0.01, 100, 90)[:, None]
    assert knn_accuracy((bank, labels), queries, [5], 0.07) == knn_accuracy(
        (scaled, labels), queries, [5], 0.07
    )


@pytest.mark.parametrize("size", [13, 64, 299])
def test_a_bank_in_parts_is_scikit_learns(size, monkeypatch):
    """Also where a part has fewer embeddings than there are neighbours."""
    (bank, labels), (queries, truth) = clouds(300, 0), clouds(200, 1)
    ks = [1, 20, 150]
    whole = knn.knn_correct((bank, labels), (queries, truth), ks, 0.07)
    monkeypatch.setattr(knn, "BANK", size)
    parts = knn.knn_correct((bank, labels), (queries, truth), ks, 0.07)
    assert torch.equal(parts, whole)
    for k, right in zip(ks, parts, strict=True):
        oracle = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        ).fit(bank.double().numpy(), labels.numpy())
        assert (
            right.tolist() == (oracle.predict(queries.double().numpy()) == truth.numpy()).tolist()
        )


def test_a_bank_of_one_part_has_the_bits_of_one_product():
    bank, queries = clouds(300, 0)[0], clouds(200, 1)[0]
    cosine = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    expected = cosine.topk(20, dim=1)
    assert len(bank) <= knn.BANK
    found = knn._nearest(bank, F.normalize(queries, dim=1), 20)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("size", [3, 4, 100])
def test_of_tied_classes_the_first_wins_whatever_the_parts(size, monkeypatch):
    """Copies of an embedding under each of three classes, in an order that parts do not follow."""
    labels = torch.tensor([2, 1, 0] * 4)
    bank = torch.tensor([[1.0, 0.0]]).expand(12, 2).clone()
    monkeypatch.setattr(knn, "BANK", size)
    for truth, right in ((0, 1.0), (1, 0.0), (2, 0.0)):
        query = torch.tensor([[3.0, 4.0]]), torch.tensor([truth])
        assert knn_accuracy((bank, labels), query, [12], 0.07) == [right]


@pytest.mark.parametrize("k", [5, 6])
def test_copies_in_several_parts_all_vote(k, monkeypatch):
    """Five copies of the query, one in each part, against three of class 1 that are a little farther."""
    monkeypatch.setattr(knn, "BANK", 4)
    near, far = [1.0, 0.0], [1.0, 0.01]
    bank = torch.tensor([near, far, [0.0, 1.0], [0.0, 1.0]] * 5)
    labels = torch.tensor([2, 1, 0, 0] * 5)
    nearest, index = knn._nearest(bank, torch.tensor([near]), k)
    assert sorted(index[0, :5].tolist()) == [0, 4, 8, 12, 16]
    assert nearest[0].tolist() == sorted(nearest[0].tolist(), reverse=True)
    query = torch.tensor([near]), torch.tensor([2])
    assert knn_accuracy((bank, labels), query, [k], 0.07) == [1.0]


def test_memory_does_not_grow_with_the_bank():
    """One product would take 572 MiB, a normalized copy of the bank 37 MiB."""
    program = """
        from benchmark.evaluation import knn
        knn.BANK, knn.CHUNK = 5000, 500
        def measured(n):
            bank = torch.randn(n, 32), torch.arange(n) % 10
            queries = torch.randn(500, 32), torch.arange(500) % 10
            return lambda: knn.knn_accuracy(bank, queries, [20, 200], 0.07)
        warm, whole = measured(5000), measured(300_000)
    """
    assert growth(program) < 25
