"""The linear probe against scikit-learn's own pipeline."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmark.evaluation.probe import SOLVERS, linear_probe


def clouds(n, seed, spread=2.5, classes=4, width=8):
    """Overlapping clouds in directions of very different scales."""
    labels = torch.arange(n) % classes
    centres = 2 * torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    noise = spread * torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    return (centres[labels] + noise) * torch.logspace(-2, 2, width) + 7, labels


def direct(train, penalty):
    pipeline = make_pipeline(
        StandardScaler(), LogisticRegression(C=penalty, tol=1e-6, max_iter=5000)
    )
    return pipeline.fit(train[0].double().numpy(), train[1].numpy())


def score(model, split):
    return float(model.score(split[0].double().numpy(), split[1].numpy()))


SOLVER = pytest.mark.parametrize("solver", list(SOLVERS))
TRAIN, VALIDATION, TEST = clouds(160, 0), clouds(200, 1), clouds(200, 2)


@SOLVER
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_probe_of_one_penalty_is_the_pipeline(penalty, solver):
    probe = linear_probe(TRAIN, VALIDATION, TEST, [penalty], solver)
    model = direct(TRAIN, penalty)
    # Two of 200 images may fall on the other side of a boundary: the fits stop at tolerances.
    assert probe.validation == pytest.approx(score(model, VALIDATION), abs=0.0101)
    assert probe.accuracy == pytest.approx(score(model, TEST), abs=0.0101)
    assert 0.4 < probe.accuracy < 0.95
    assert (probe.penalty, probe.penalty_at_edge) == (penalty, True)


def scarce(n, seed):
    """Wide and noisy: with few images, what is learnt without a penalty does not carry over."""
    return clouds(n, seed, spread=4, width=20)


def hidden(n, seed):
    """The class shows in the difference of two features only, which a strong penalty misses."""
    labels = torch.arange(n) % 4
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, generator=generator)
    slight = 0.02 * torch.randn(n, generator=generator)
    return torch.stack((shared + 0.1 * labels + slight, shared), 1), labels


def chosen_at(wanted, penalties, draw, count):
    """Splits on which the validation split clearly prefers the penalty at `wanted`."""
    for seed in range(40):
        train, validation = draw(count, 100 + seed), draw(120, 200 + seed)
        scores = [score(direct(train, penalty), validation) for penalty in penalties]
        if scores[wanted] > max(scores[:wanted] + scores[wanted + 1 :]) + 0.02:
            return train, validation
    raise AssertionError("no such splits")


@SOLVER
@pytest.mark.parametrize(
    ("wanted", "penalties", "draw", "count"),
    [
        (0, [1e-4, 1e-1, 10.0], scarce, 24),
        (1, [1e-3, 1e-2, 10.0], scarce, 24),
        (2, [1e-4, 1e-1, 10.0], hidden, 120),
    ],
)
def test_penalty_is_chosen_on_the_validation_split(wanted, penalties, draw, count, solver):
    train, validation = chosen_at(wanted, penalties, draw, count)
    scored = draw(120, 77)
    # Given in any order.
    probe = linear_probe(train, validation, scored, penalties[::-1], solver)
    assert (probe.penalty, probe.penalty_at_edge) == (penalties[wanted], wanted != 1)
    model = direct(train, penalties[wanted])
    assert probe.accuracy == pytest.approx(score(model, scored), abs=0.02)
    # The scored split's labels have no say.
    wrong = linear_probe(train, validation, (scored[0], (scored[1] + 1) % 4), penalties, solver)
    assert wrong[1:] == probe[1:]


@SOLVER
def test_among_equals_the_strongest_penalty_wins(solver):
    split = clouds(80, 3, spread=0.01)
    probe = linear_probe(split, split, split, [0.1, 1.0, 10.0], solver)
    assert (probe.accuracy, probe.penalty, probe.penalty_at_edge) == (1.0, 0.1, True)


@SOLVER
def test_constant_features_do_not_matter(solver):
    def widened(split):
        return torch.cat((split[0], torch.full((len(split[0]), 2), 3.0)), 1), split[1]

    penalties = [1e-2, 1e-1, 1.0]
    found = linear_probe(*map(widened, (TRAIN, VALIDATION, TEST)), penalties, solver)
    assert found == linear_probe(TRAIN, VALIDATION, TEST, penalties, solver)


@SOLVER
def test_constant_embeddings_are_at_chance(solver):
    def collapsed(split):
        return torch.ones(len(split[0]), 8), split[1]

    probe = linear_probe(*map(collapsed, (TRAIN, VALIDATION, TEST)), [0.1, 1.0, 10.0], solver)
    assert probe.accuracy == pytest.approx(0.25)
