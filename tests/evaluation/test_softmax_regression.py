"""The linear probe by torch against scikit-learn: objective, gradient, accuracy, memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from benchmark.data.build import build
from benchmark.data.load import load
from benchmark.data.standardise import standardiser
from benchmark.data.storage import Splits
from benchmark.evaluation import softmax_regression
from benchmark.evaluation.features import embed
from benchmark.evaluation.knn import Split
from benchmark.evaluation.softmax_regression import Regression, objective, regressions
from benchmark.training import network
from tests.evaluation.test_probe import clouds
from tests.helpers import tiny
from tests.helpers.memory import growth

X, Y = clouds(300, 0)
PENALTIES = [1e-4, 1e-2, 1.0, 100.0]


def value(coefficients: np.ndarray, intercept: np.ndarray, split: Split, penalty: float) -> float:
    """The objective by scikit-learn's own scaling and loss."""
    x, y = StandardScaler().fit_transform(split[0].double().numpy()), split[1].numpy()
    logits = x @ coefficients.T + intercept
    odds = np.exp(logits - logits.max(1, keepdims=True))
    loss = log_loss(y, odds / odds.sum(1, keepdims=True))
    return float(loss + (coefficients**2).sum() / (2 * penalty * len(y)))


def fitted(split: Split, penalty: float, tolerance: float = 1e-3, steps: int = 200):
    x = StandardScaler().fit_transform(split[0].double().numpy())
    return LogisticRegression(C=penalty, tol=tolerance, max_iter=steps).fit(x, split[1].numpy())


def parts_of(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    monkeypatch.setattr(softmax_regression, "PART", {"cpu": numbers})


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("mini")
    build("mini", "mini", {}, tiny.real()["data"]["splits"], 0, folder)
    return load(folder, ("train", "validation", "test"))


@pytest.mark.parametrize("numbers", [1, 12 * 7, 2**20])
def test_objective_and_gradient_are_those_of_autograd(numbers: int, monkeypatch) -> None:
    """Of one row at a time, of parts of which the last is smaller, and of all rows."""
    parts_of(monkeypatch, numbers)
    x, generator = X.double(), torch.Generator().manual_seed(1)
    weights = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    mean, std = x.mean(0), x.std(0, correction=0)
    found = objective(Regression(weights.clone(), mean, std), x, Y, 0.3)
    weights.requires_grad_()
    logits = ((x - mean) / std) @ weights[:, :-1].T + weights[:, -1]
    expected = torch.nn.functional.cross_entropy(logits, Y)
    expected = expected + weights[:, :-1].square().sum() / (2 * 0.3 * len(Y))
    expected.backward()
    torch.testing.assert_close(found, (expected.detach(), weights.grad))
    rest = weights.detach()
    assert float(found[0]) == pytest.approx(
        value(rest[:, :-1].numpy(), rest[:, -1].numpy(), (X, Y), 0.3)
    )


@pytest.mark.parametrize("numbers", [12 * 7, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minimum_is_at_most_that_of_scikit_learn(dtype, numbers: int, monkeypatch) -> None:
    parts_of(monkeypatch, numbers)
    for penalty, model in zip(PENALTIES, regressions(X.to(dtype), Y, PENALTIES, 200), strict=True):
        w = model.weights.numpy()
        usual, exact = fitted((X, Y), penalty), fitted((X, Y), penalty, 1e-8, 10000)
        mine = value(w[:, :-1], w[:, -1], (X, Y), penalty)
        least = value(exact.coef_, exact.intercept_, (X, Y), penalty)
        assert mine <= value(usual.coef_, usual.intercept_, (X, Y), penalty) + 1e-6
        assert least - 1e-9 <= mine <= least + 1e-4


def test_the_same_bits_again_whatever_was_fitted_before() -> None:
    one, two = (list(regressions(X, Y, PENALTIES, 50)) for _ in range(2))
    assert all(torch.equal(a.weights, b.weights) for a, b in zip(one, two, strict=True))
    # Each fit has weights of its own, and not those of the last one.
    assert all(not torch.equal(a.weights, b.weights) for a, b in itertools.pairwise(one))


def test_the_intercept_has_no_penalty() -> None:
    """A strong penalty leaves the frequencies of the classes, which the intercept alone can state."""
    y = (torch.arange(300) % 10 == 0).long()
    (model,) = regressions(X, y, [1e-9], 200)
    odds = model.weights[:, -1].softmax(0)
    torch.testing.assert_close(odds, torch.tensor([0.9, 0.1]).double(), atol=1e-3, rtol=0)


PIXELS, UNTRAINED = "raw-pixels-pixels-none-s0", "untrained-resnet-gn-s0"


@pytest.mark.parametrize("label", [PIXELS, UNTRAINED])
def test_the_accuracy_on_mini_is_that_of_scikit_learn(mini: Splits, label: str) -> None:
    """Within .2 points, four of 2,000 images, of pixels and of embeddings of an untrained network.

    By penalty, since the choice between two that are equally good on the validation split is arbitrary.
    """
    tree = tiny.changed(tiny.real(), "experiments/leaderboard/learning_rates", "default")
    backbone = network.build(tiny.cell(label, tree=tree), mini.manifest).backbone
    standardise = standardiser(mini.manifest, torch.device("cpu"))
    z = {
        name: embed(backbone, images, standardise)["pooled"] for name, images in mini.images.items()
    }
    scaler = StandardScaler().fit(z["train"].double().numpy())
    train, labels = (z["train"], mini.labels["train"]), mini.labels["test"]
    penalties = [1e-4, 1e-3, 1e-2]
    for penalty, model in zip(penalties, regressions(*train, penalties, 200), strict=True):
        theirs = fitted(train, penalty, 1e-5, 1000)
        expected = theirs.score(scaler.transform(z["test"].double().numpy()), labels.numpy())
        found = float((model(z["test"]) == labels).double().mean())
        assert expected > 0.15  # above chance
        assert found == pytest.approx(expected, abs=0.002 + 1e-9)


def test_memory_does_not_grow_with_the_number_of_embeddings() -> None:
    """A copy of the embeddings would take 46 MiB, the logits of all of them 46 MiB."""
    program = """
        from benchmark.evaluation.softmax_regression import regressions
        def measured(n):
            x, y = torch.randn(n, 200), torch.arange(n) % 200
            return lambda: [model(x) for model in regressions(x, y, [0.01, 1.0], 2)]
        warm, whole = measured(3000), measured(60_000)
    """
    assert growth(program) < 25
