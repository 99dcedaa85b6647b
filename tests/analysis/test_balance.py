"""Balanced accuracy against scikit-learn's, and when it is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from benchmark.analysis import leaderboard
from benchmark.analysis.balance import Imbalance, imbalance, largest_share
from benchmark.planning.cell import Cell
from benchmark.report.leaderboard.page import markdown
from tests.helpers import tiny
from tests.helpers.made_up import params_of, publish


def hexadecimal(right: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    bits = "".join("01"[int(one)] for one in right)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[at : at + 4], 2):x}" for at in range(0, len(bits), 4))


@pytest.mark.parametrize("count", [400, 401, 403])
def test_it_is_that_of_scikit_learn(count: int) -> None:
    dice = np.random.default_rng(count)
    labels = dice.choice(3, count, p=[0.8, 0.1, 0.1])
    answers = np.where(dice.random(count) < 0.7, labels, 0)
    found = Imbalance(labels, 0.8).accuracy(hexadecimal(answers == labels))
    assert found == pytest.approx(balanced_accuracy_score(labels, answers))
    # A constant answer is right in one class of three.
    assert Imbalance(labels, 0.8).accuracy(hexadecimal(labels == 0)) == pytest.approx(1 / 3)


def test_classes_count_as_equal_up_to_a_tenth() -> None:
    assert largest_share({"a": 100, "b": 110}) is None
    assert largest_share({"a": 100, "b": 100, "c": 0}) is None
    assert largest_share({"a": 100, "b": 300}) == 0.75


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A built project, three of whose four classes have few images."""
    root = tmp_path_factory.mktemp("uneven")
    tree = tiny.raw()
    tree["data"]["splits"] = {"train": 60, "validation": 20, "test": 32}
    tiny.project(root, tree, {"b": 16, "c": 16, "d": 16})
    return root, tree


def test_the_labels_are_those_of_the_built_test_split(uneven: tuple[Path, dict[str, Any]]) -> None:
    root, tree = uneven
    params, dataset = tiny.params(tree), tiny.dataset(root)
    found = imbalance(root, params, dataset)
    assert found is not None
    assert np.bincount(found.labels).tolist() == [17, 5, 5, 5]
    assert found.largest == 17 / 32
    assert imbalance(root, params, "of other images") is None
    assert imbalance(root / "elsewhere", params, dataset) is None


def test_the_table_has_it_only_if_classes_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_of(tiny.real())
    dice = np.random.default_rng(0)

    def answer(cell: Cell, entry: dict[str, Any]) -> None:
        entry["result"]["correct"] = hexadecimal(dice.random(2000) < 0.6)

    publish(tmp_path, params, answer)
    even = leaderboard.build(tmp_path, params, "leaderboard")
    assert "balanced" not in markdown(even, "figure.svg")
    labels = np.repeat([0, 1], [1900, 100])
    monkeypatch.setattr(leaderboard, "imbalance", lambda *_: Imbalance(labels, 0.95))
    table = leaderboard.build(tmp_path, params, "leaderboard")
    page = markdown(table, "figure.svg")
    assert "| kNN | kNN, balanced |" in page
    assert "The largest class has 95.0 % of the test images" in page
    for entry in table.entries:
        lists = [run.published.record.result.correct for run in entry.records]
        expected = [Imbalance(labels, 0.95).accuracy(one) for one in lists if one]
        estimate = entry.estimates["knn_balanced"]
        assert estimate is not None
        assert estimate.mean == pytest.approx(np.mean(expected))
        assert len(expected) == estimate.n == len(entry.seeds)
    # Nothing else in the table depends on it.
    assert [replace(e, estimates={}) for e in table.entries] == [
        replace(e, estimates={}) for e in even.entries
    ]
