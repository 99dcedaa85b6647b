"""The choice of learning rates, with a made-up training: the trials, the best, the edges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark import canonical, cli, commands, plan, records, sweep
from benchmark.errors import UserError
from benchmark.plan import Cell, Row
from benchmark.schema import Params
from benchmark.sweep import Result
from tests import tiny

BN, PLAIN = Row("simclr", "resnet", "bn"), Row("simclr", "resnet", "none-plain")
RECIPE = 0.1
LOW, HIGH = 0.0316, 0.316


def params(**changes: Any) -> Params:
    """A sweep over SimCLR alone, two seeds, with some fields of the section `sweep` changed."""
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/methods", ["simclr", "raw-pixels"])
    tree["sweep"] |= {"seeds": [100, 101], **changes}
    return tiny.params(tree)


class Training:
    """Scores cells by a function of rate, weight decay and seed, and remembers what it was given."""

    def __init__(self, score: Callable[[float, float, int], float | None]) -> None:
        self.score = score
        self.calls: list[list[Cell]] = []

    def __call__(self, cells: Sequence[Cell]) -> Mapping[str, Result]:
        self.calls.append(list(cells))
        found = {}
        for cell in cells:
            recipe = cell.config["training"]
            score = self.score(recipe["learning_rate"], recipe["weight_decay"], cell.seed)
            found[cell.label] = Result("diverged" if score is None else "done", score)
        return found


def tune(
    score: Callable[[float, float, int], float | None], **changes: Any
) -> tuple[dict[Row, dict[str, Any]], Training]:
    """The table by row, and the training that it came from."""
    training = Training(score)
    table = sweep.tune(params(**changes), "leaderboard", training, lambda line: None)
    return {Row(r["method"], r["backbone"], r["scheme"]): r for r in table}, training


def near(best: float) -> Callable[[float, float, int], float]:
    """A score that falls on both sides of one rate."""
    return lambda rate, decay, seed: 1 / (1 + abs(math.log(rate / best)))


def rates(row: Mapping[str, Any]) -> list[float]:
    return sorted({trial["learning_rate"] for trial in row["trials"]})


def test_the_middle_of_the_first_trials_is_the_recipe_and_needs_no_more() -> None:
    table, training = tune(near(RECIPE), extensions=5)
    assert rates(table[BN]) == [LOW, RECIPE, HIGH]
    assert len(training.calls) == 1
    assert (table[BN]["learning_rate"], table[BN]["at_edge"]) == (RECIPE, False)
    assert table[BN]["default_rate"] == RECIPE
    assert table[BN]["validation"] == table[BN]["default_validation"] == 1.0


def test_only_rows_that_train_are_tuned() -> None:
    table, _ = tune(near(RECIPE))
    assert set(table) == {BN, PLAIN}


def test_the_mean_over_seeds_decides() -> None:
    scores = {(LOW, 100): 0.9, (LOW, 101): 0.1, (RECIPE, 100): 0.6, (RECIPE, 101): 0.6}
    table, _ = tune(lambda rate, decay, seed: scores.get((rate, seed), 0.2), extensions=0)
    assert table[BN]["learning_rate"] == RECIPE
    assert table[BN]["validation"] == pytest.approx(0.6)


def test_among_equals_the_lowest_rate_wins() -> None:
    table, _ = tune(lambda rate, decay, seed: 0.5 if rate > LOW else 0.1, extensions=0)
    assert table[BN]["learning_rate"] == RECIPE


def test_a_trial_without_a_score_counts_as_zero() -> None:
    def score(rate: float, decay: float, seed: int) -> float | None:
        if rate == HIGH and seed == 101:
            return None
        return {HIGH: 0.9, RECIPE: 0.5}.get(rate, 0.1)

    table, _ = tune(score, extensions=0)
    assert table[BN]["learning_rate"] == RECIPE
    lost = [t for t in table[BN]["trials"] if t["status"] == "diverged"]
    assert [(t["learning_rate"], t["seed"], t["validation"]) for t in lost] == [(HIGH, 101, None)]


@pytest.mark.parametrize("extensions", [0, 1, 2, 4])
@pytest.mark.parametrize("upward", [True, False])
def test_a_best_rate_at_an_edge_is_followed_so_far_and_no_further(
    extensions: int, upward: bool
) -> None:
    best = 1e9 if upward else 1e-9
    table, training = tune(near(best), extensions=extensions)
    row = table[BN]
    assert len(rates(row)) == 3 + extensions
    assert len(training.calls) == 1 + extensions
    assert row["learning_rate"] == (rates(row)[-1] if upward else rates(row)[0])
    assert row["at_edge"]
    assert {LOW, RECIPE, HIGH} <= set(rates(row))


def test_an_extension_that_brings_the_best_inside_is_not_at_an_edge() -> None:
    table, training = tune(near(HIGH), extensions=4)
    assert rates(table[BN]) == [LOW, RECIPE, HIGH, 1.0]
    assert len(training.calls) == 2
    assert (table[BN]["learning_rate"], table[BN]["at_edge"]) == (HIGH, False)


def test_no_trial_is_trained_twice() -> None:
    _, training = tune(near(1e9), extensions=3)
    labels = [cell.label for call in training.calls for cell in call]
    assert len(labels) == len(set(labels))


def test_where_nothing_scores_the_recipe_stays_and_the_row_says_so() -> None:
    table, training = tune(lambda rate, decay, seed: None, extensions=3)
    row = table[BN]
    assert (row["learning_rate"], row["validation"], row["at_edge"]) == (RECIPE, 0.0, True)
    assert len(training.calls) == 1


def test_a_scheme_that_does_not_normalize_also_chooses_between_decay_and_none() -> None:
    decay = tiny.raw()["methods"]["simclr"]["weight_decay"]["resnet"]
    table, _ = tune(lambda rate, wd, seed: near(RECIPE)(rate, wd, seed) - 100 * wd)
    assert {trial["weight_decay"] for trial in table[BN]["trials"]} == {decay}
    assert {trial["weight_decay"] for trial in table[PLAIN]["trials"]} == {0.0, decay}
    assert (table[BN]["weight_decay"], table[PLAIN]["weight_decay"]) == (decay, 0.0)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_row_has_the_same_trials_at_first(count: int) -> None:
    _, training = tune(near(RECIPE), rates=count, extensions=0)
    (cells,) = training.calls
    per_row: dict[str, set[tuple[float, int]]] = {}
    for cell in cells:
        setting = (cell.config["training"]["learning_rate"], cell.seed)
        per_row.setdefault(cell.scheme, set()).add(setting)
    assert per_row["bn"] == per_row["none-plain"]
    assert len(per_row["bn"]) == 2 * count
    assert {cell.config["evaluation"]["judge"] for cell in cells} == {"validation"}


def test_a_recipe_with_many_digits_can_be_tuned() -> None:
    tree = tiny.changed(tiny.raw(), "methods/simclr/learning_rate/resnet", 0.12345)
    tree["methods"]["supervised"]["learning_rate"]["resnet"] = 0.1
    table = sweep.tune(tiny.params(tree), "leaderboard", Training(near(0.12345)), lambda line: None)
    assert table[0]["default_validation"] > 0


def test_a_scheme_without_a_backbone_norm_is_refused() -> None:
    tree = tiny.changed(tiny.raw(), "schemes/bn", {"projector": {"norm": "bn"}})
    with pytest.raises(UserError, match="scheme bn has no norm for the backbone"):
        sweep.tune(tiny.params(tree), "leaderboard", Training(near(RECIPE)), lambda line: None)


# --- the table and the command


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder without images, but with the note of their checksum."""
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/methods", ["simclr", "raw-pixels"])
    tiny.write_params(tmp_path, tree)
    canonical.write(tmp_path / "data" / "mini" / "manifest.json", tiny.note(tiny.params()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    return tmp_path


@pytest.fixture
def trained(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the cells that commands ask to have trained; each scores by its rate."""
    asked: list[str] = []

    def train(arguments: Any, found: Params, cells: Sequence[Cell], dataset: str) -> None:
        store = commands.store(root)
        for cell in cells:
            asked.append(cell.label)
            score = near(RECIPE)(cell.config["training"]["learning_rate"], 0, 0)
            result = {"metrics": {"pooled.knn5": score}}
            print_ = cell.fingerprint(dataset)
            store.put(records.record(cell, print_, dataset, {}, "done", result), {})

    monkeypatch.setattr(commands, "_train", train)
    return asked


def test_the_table_is_its_own_cache(root: Path, trained: list[str]) -> None:
    assert cli.main(["sweep"]) == 0
    table = root / "results" / "mini" / "rates" / "leaderboard.json"
    first, count = table.read_bytes(), len(trained)
    assert count == 3 + 2 * 3  # one row of three rates, one that also tries no weight decay
    commands.store(root).folder.rename(root / "gone")
    assert cli.main(["sweep"]) == 0
    assert len(trained) == count
    assert table.read_bytes() == first


def test_only_what_changed_is_trained_again(root: Path, trained: list[str]) -> None:
    assert cli.main(["sweep"]) == 0
    commands.store(root).folder.rename(root / "gone")
    trained.clear()
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/methods", ["simclr", "raw-pixels"])
    tiny.write_params(root, tiny.changed(tree, "sweep/seeds", [100, 101]))
    assert cli.main(["sweep"]) == 0
    assert len(trained) == 9
    assert all(label.endswith("-s101") for label in trained)


def test_the_rates_of_the_table_are_those_that_cells_are_planned_with(
    root: Path, trained: list[str]
) -> None:
    assert cli.main(["sweep"]) == 0
    table = sweep.load(root / "results" / "mini" / "rates" / "leaderboard.json")
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/methods", ["simclr", "raw-pixels"])
    tree["experiments"]["leaderboard"]["rates"] = "tuned"
    cells = plan.cells(tiny.params(tree), "leaderboard", sweep.settings(table))
    chosen = {cell.scheme: cell.config["training"] for cell in cells if cell.method == "simclr"}
    for row in table["rows"]:
        recipe = chosen[row["scheme"]]
        assert (recipe["learning_rate"], recipe["weight_decay"]) == (
            row["learning_rate"],
            row["weight_decay"],
        )


def test_a_trial_that_crashed_is_trained_again(root: Path, trained: list[str]) -> None:
    assert cli.main(["sweep"]) == 0
    file = root / "results" / "mini" / "rates" / "leaderboard.json"
    table = sweep.load(file)
    trial = table["rows"][0]["trials"][0]
    trial |= {"status": "crashed", "validation": None}
    canonical.write(file, canonical.pretty(table))
    commands.store(root).folder.rename(root / "gone")
    trained.clear()
    assert cli.main(["sweep"]) == 0
    assert trained == [trial["label"]]


def test_a_damaged_table_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canonical.write(root / "results" / "mini" / "rates" / "leaderboard.json", '{"rows": [')
    assert "leaderboard.json: not a table of rates" in tiny.refusal(capsys, "sweep")
