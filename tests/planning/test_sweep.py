"""The choice of learning rates, with a made-up training: the trials, the best, the edges."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import parser
from benchmark.cli import sweep as verb
from benchmark.cli import train as training_verb
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.data.manifest import Split, dataset_checksum
from benchmark.planning import plan, rate_table, sweep
from benchmark.planning.cell import Cell, Row, Task
from benchmark.planning.rate_table import Expected, Result, TunedRow
from benchmark.results import records
from tests.helpers import tiny

BN, PLAIN = Row("simclr", "resnet", "bn"), Row("simclr", "resnet", "none-plain")
RECIPE = 0.1
LOW, HIGH = 0.0316, 0.316


def asked() -> dict[str, Any]:
    """Params whose leaderboard asks for tuned rates of SimCLR alone."""
    tree = tiny.raw()
    tree["experiments"]["leaderboard"] |= {
        "methods": ["simclr", "raw-pixels"],
        "learning_rates": "tuned",
    }
    return tree


def params(**changes: Any) -> Params:
    """A sweep over SimCLR alone, two seeds, with some fields of the section `sweep` changed."""
    tree = asked()
    tree["sweep"] |= {"seeds": [100, 101], "learning_rates": 3, **changes}
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
            recipe = cell.config.recipe
            score = self.score(recipe.learning_rate, recipe.weight_decay, cell.seed)
            found[cell.label] = Result("", "diverged" if score is None else "done", score)
        return found


def tune(
    score: Callable[[float, float, int], float | None], **changes: Any
) -> tuple[dict[Row, TunedRow], Training]:
    """The table by row, and the training that it came from."""
    training = Training(score)
    table = sweep.tune(params(**changes), "leaderboard", training, lambda line: None)
    return {tuned.row: tuned for tuned in table}, training


def near(best: float) -> Callable[[float, float, int], float]:
    """A score that falls on both sides of one rate, by .04 at the first step of the sweep's factor."""

    def score(rate: float, decay: float, seed: int) -> float:
        return 0.6 - 0.0966 * (math.hypot(1, math.log(rate / best, 10**0.5)) - 1)

    return score


def rates(row: TunedRow) -> list[float]:
    return sorted({trial.learning_rate for trial in row.trials})


def test_the_middle_of_the_first_trials_is_the_recipe_and_needs_no_more() -> None:
    table, training = tune(near(RECIPE), extensions=5)
    assert rates(table[BN]) == [LOW, RECIPE, HIGH]
    assert len(training.calls) == 1
    assert (table[BN].learning_rate, table[BN].at_edge) == (RECIPE, False)
    assert table[BN].default_learning_rate == RECIPE
    assert table[BN].default_validation == pytest.approx(0.6)
    assert table[BN].validation == pytest.approx(0.6, abs=0.005)


def test_only_rows_that_train_are_tuned() -> None:
    table, _ = tune(near(RECIPE))
    assert set(table) == {BN, PLAIN}


def test_the_mean_over_seeds_decides() -> None:
    scores = {(LOW, 100): 0.9, (LOW, 101): 0.1, (RECIPE, 100): 0.6, (RECIPE, 101): 0.6}
    table, _ = tune(lambda rate, decay, seed: scores.get((rate, seed), 0.2), extensions=0)
    assert LOW < table[BN].learning_rate < HIGH


def test_the_best_rate_may_lie_between_two_that_were_tried() -> None:
    best = RECIPE * 10**0.2
    table, _ = tune(near(best), learning_rates=5)
    assert table[BN].learning_rate == pytest.approx(best, rel=0.1)
    assert table[BN].learning_rate not in rates(table[BN])


def test_one_step_of_the_rate_either_way_is_told() -> None:
    table, _ = tune(near(RECIPE), learning_rates=5)
    for name, rate in (("lower", LOW), ("higher", HIGH)):
        found = getattr(table[BN].one_step, name)
        assert found.learning_rate == rate
        assert found.validation == pytest.approx(0.56, abs=0.01)


def test_a_rate_at_which_a_seed_fails_is_not_chosen_nor_one_beyond() -> None:
    def score(rate: float, decay: float, seed: int) -> float | None:
        if rate == HIGH and seed == 101:
            return None
        return {LOW: 0.3, RECIPE: 0.5}.get(rate, 0.9)

    table, _ = tune(score, extensions=0)
    assert table[BN].learning_rate == RECIPE
    assert table[BN].one_step.higher == Expected(learning_rate=HIGH, validation=None)
    lost = [t for t in table[BN].trials if t.status == "diverged"]
    assert [(t.learning_rate, t.seed, t.validation) for t in lost] == [(HIGH, 101, None)]


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
    assert row.learning_rate == (rates(row)[-1] if upward else rates(row)[0])
    assert row.at_edge
    assert {LOW, RECIPE, HIGH} <= set(rates(row))


def test_an_extension_that_brings_the_best_inside_is_not_at_an_edge() -> None:
    table, training = tune(near(HIGH), extensions=4)
    assert rates(table[BN]) == [LOW, RECIPE, HIGH, 1.0]
    assert len(training.calls) == 2
    assert table[BN].learning_rate == pytest.approx(HIGH, rel=0.2)
    assert not table[BN].at_edge


def test_a_scheme_at_an_edge_brings_every_other_one_the_same_trials() -> None:
    trainings = {"bn": Training(near(RECIPE)), "none-plain": Training(near(1e9))}

    def by_scheme(cells: Sequence[Cell]) -> Mapping[str, Result]:
        found: dict[str, Result] = {}
        for cell in cells:
            found |= trainings[cell.scheme]([cell])
        return found

    table = sweep.tune(params(extensions=2), "leaderboard", by_scheme, lambda line: None)
    bn, plain = table
    assert rates(bn) == rates(plain)
    assert len(rates(bn)) == 5
    assert (bn.at_edge, plain.at_edge) == (False, True)


def test_no_trial_is_trained_twice() -> None:
    _, training = tune(near(1e9), extensions=3)
    labels = [cell.label for call in training.calls for cell in call]
    assert len(labels) == len(set(labels))


def test_where_nothing_scores_the_recipe_stays_and_the_row_says_so() -> None:
    table, training = tune(lambda rate, decay, seed: None, extensions=3)
    row = table[BN]
    assert (row.learning_rate, row.validation, row.at_edge) == (RECIPE, None, True)
    assert len(training.calls) == 1


def test_no_scheme_has_another_weight_decay_to_try() -> None:
    decay = tiny.raw()["methods"]["simclr"]["weight_decay"]["resnet"]
    table, _ = tune(near(RECIPE))
    for row in (BN, PLAIN):
        assert {trial.weight_decay for trial in table[row].trials} == {decay}


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_row_has_the_same_trials_at_first(count: int) -> None:
    _, training = tune(near(RECIPE), learning_rates=count, extensions=0)
    (cells,) = training.calls
    per_row: dict[str, set[tuple[float, int]]] = {}
    for cell in cells:
        setting = (cell.config.recipe.learning_rate, cell.seed)
        per_row.setdefault(cell.scheme, set()).add(setting)
    assert per_row["bn"] == per_row["none-plain"]
    assert len(per_row["bn"]) == 2 * count
    assert {cell.config.evaluation.judge for cell in cells} == {"validation"}


def test_a_recipe_with_many_digits_can_be_tuned() -> None:
    tree = tiny.changed(asked(), "methods/simclr/learning_rate/resnet", 0.12345)
    table = sweep.tune(tiny.params(tree), "leaderboard", Training(near(0.12345)), lambda line: None)
    assert table[0].default_validation


# --- the table and the command

FAULTS: tuple[records.Status, ...] = ("crashed", "out-of-memory")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder without images, but with the note of their checksum."""
    tree = asked()
    tiny.write_params(tmp_path, tree)
    canonical_json.write(tmp_path / "data" / "mini" / "manifest.json", tiny.note(tiny.params()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    return tmp_path


@pytest.fixture
def trained(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the cells that commands ask to have trained; each scores by its rate.

    A file `crashed` or `out-of-memory` in the project names the cells that get this status.
    """
    asked: list[str] = []

    def train(arguments: Any, found: Params, tasks: Sequence[Task]) -> dict[str, records.Record]:
        store = records.store(root)
        for task in tasks:
            asked.append(task.cell.label)
            score = near(RECIPE)(task.cell.config.recipe.learning_rate, 0, 0)
            result = records.Result(metrics={"pooled_reestimated.knn5": score})
            status: records.Status = "done"
            for fault in FAULTS:
                file = root / fault
                if file.is_file() and task.cell.label in file.read_text(encoding="utf-8").split():
                    status, result = fault, records.Result(metrics={})
            store.put(records.Record.of(task, {}, status, result), records.RunLog())
        return store.read(tasks)

    monkeypatch.setattr(verb, "train_missing", train)
    return asked


@pytest.fixture
def train(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the cells that `train` asks to have trained, of a made-up accuracy."""
    asked: list[str] = []

    def made(
        arguments: Any, found: Params, tasks: Sequence[Task], others: Any
    ) -> dict[str, records.Record]:
        store = records.store(root)
        for task in tasks:
            asked.append(task.cell.label)
            result = records.Result(metrics={"pooled_reestimated.knn5": 0.5})
            store.put(records.Record.of(task, {}, "done", result), records.RunLog())
        return store.read(tasks)

    monkeypatch.setattr(training_verb, "train_missing", made)
    return asked


def test_the_table_is_its_own_cache(root: Path, trained: list[str]) -> None:
    assert parser.main(["sweep"]) == 0
    table = root / "results" / "mini" / "rates" / "leaderboard.json"
    first, count = table.read_bytes(), len(trained)
    assert count == 2 * 5  # two rows of five rates, one seed each
    records.store(root).folder.rename(root / "gone")
    assert parser.main(["sweep"]) == 0
    assert len(trained) == count
    assert table.read_bytes() == first


def test_nothing_is_trained_where_the_recipes_rates_are_asked_for(
    root: Path, trained: list[str]
) -> None:
    """A table of earlier trials stays as it is."""
    tree = tiny.changed(asked(), "experiments/leaderboard/learning_rates", "default")
    table = root / "results" / "mini" / "rates" / "leaderboard.json"
    tiny.write_params(root, tree)
    assert parser.main(["sweep"]) == 0
    assert rate_table.load(table) == ()
    assert trained == []
    assert parser.main(["plan"]) == 0
    tiny.write_params(root, asked())
    assert parser.main(["sweep"]) == 0
    tuned, count = table.read_bytes(), len(trained)
    tiny.write_params(root, tree)
    assert parser.main(["sweep"]) == 0
    assert table.read_bytes() == tuned
    assert len(trained) == count


def test_only_what_changed_is_trained_again(root: Path, trained: list[str]) -> None:
    assert parser.main(["sweep"]) == 0
    records.store(root).folder.rename(root / "gone")
    trained.clear()
    tree = asked()
    tiny.write_params(root, tiny.changed(tree, "sweep/seeds", [100, 101]))
    assert parser.main(["sweep"]) == 0
    assert len(trained) == 10
    assert all(label.endswith("-s101") for label in trained)


def test_the_rates_of_the_table_are_those_that_cells_are_planned_with(
    root: Path, trained: list[str]
) -> None:
    assert parser.main(["sweep"]) == 0
    table = rate_table.load(root / "results" / "mini" / "rates" / "leaderboard.json")
    tree = asked()
    tree["experiments"]["leaderboard"]["learning_rates"] = "tuned"
    cells = plan.cells(tiny.params(tree), "leaderboard", rate_table.settings(table))
    chosen = {cell.scheme: cell.config.recipe for cell in cells if cell.method == "simclr"}
    for row in table:
        recipe = chosen[row.scheme]
        assert (recipe.learning_rate, recipe.weight_decay) == (row.learning_rate, row.weight_decay)


def test_without_a_trial_that_crashed_there_is_no_table(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor would a rate be chosen from the rest; what is trained stays in the store."""
    assert parser.main(["sweep"]) == 0
    table = root / "results" / "mini" / "rates" / "leaderboard.json"
    whole, label = table.read_bytes(), trained[0]
    table.unlink()
    records.store(root).folder.rename(root / "gone")
    (root / "crashed").write_text(label, encoding="utf-8")
    capsys.readouterr()
    assert parser.main(["sweep"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"benchmark: 1 of 10 cells crashed: mini/sweep/{label}; the same command trains them again"
    )
    assert not table.exists()
    (root / "crashed").unlink()
    assert parser.main(["sweep"]) == 0
    assert table.read_bytes() == whole


def test_a_part_of_a_rows_trials_without_memory_choose_no_rate(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["sweep"]) == 0
    table = root / "results" / "mini" / "rates" / "leaderboard.json"
    whole, labels = table.read_bytes(), list(trained)
    table.unlink()
    bn = [label for label in labels if label.startswith("simclr-resnet-bn-")]
    (root / "out-of-memory").write_text("\n".join(bn[:2]), encoding="utf-8")
    capsys.readouterr()
    assert parser.main(["sweep"]) == 1
    assert "2 of 5 trials of simclr-resnet-bn ran out of memory" in capsys.readouterr().err
    assert not table.exists()
    # A row that never fits has no rate, and the others have theirs.
    (root / "out-of-memory").write_text("\n".join(bn), encoding="utf-8")
    assert parser.main(["sweep"]) == 0
    assert [row.validation is None for row in rate_table.load(table)] == [True, False]
    # With more memory: only when asked, and then those alone.
    (root / "out-of-memory").unlink()
    trained.clear()
    assert parser.main(["sweep"]) == 0
    assert trained == []
    assert parser.main(["sweep", "--retry"]) == 0
    assert trained == bn
    assert table.read_bytes() == whole


def test_a_trial_that_crashed_is_trained_again(root: Path, trained: list[str]) -> None:
    assert parser.main(["sweep"]) == 0
    file = root / "results" / "mini" / "rates" / "leaderboard.json"
    table = json.loads(file.read_text(encoding="utf-8"))
    trial = table["rows"][0]["trials"][0]
    trial |= {"status": "crashed", "validation": None}
    canonical_json.write(file, canonical_json.pretty(table))
    records.store(root).folder.rename(root / "gone")
    trained.clear()
    assert parser.main(["sweep"]) == 0
    assert trained == [trial["label"]]


# --- seeds of an experiment's own, and one method at a time


def two_methods(**experiment: Any) -> dict[str, Any]:
    """Params whose leaderboard asks for tuned rates of SimCLR and of a recipe that extends it."""
    tree = asked()
    tree["methods"]["cool"] = {"extends": "simclr", "options": {"temperature": 0.5}}
    tree["methods"]["longer"] = {
        "extends": "cool",
        "images_seen": 64 * tiny.BATCH,
        "learning_rates_from": "cool",
    }
    methods = ["simclr", "cool", "longer", "raw-pixels"]
    tree["experiments"]["leaderboard"] |= {"methods": methods, **experiment}
    return tree


def table_of(root: Path) -> Path:
    return root / "results" / "mini" / "rates" / "leaderboard.json"


def test_an_experiment_may_tune_with_seeds_of_its_own(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tree = asked()
    tree["experiments"]["other"] = tree["experiments"]["leaderboard"] | {"sweep_seeds": [105, 106]}
    tiny.write_params(root, tree)
    for experiment, seeds in (("leaderboard", [100]), ("other", [105, 106])):
        capsys.readouterr()
        assert parser.main(["plan", "--experiment", experiment]) == 0
        assert f"some {5 * len(seeds)} trials each" in capsys.readouterr().out
        trained.clear()
        assert parser.main(["sweep", "--experiment", experiment]) == 0
        assert len(trained) == 2 * 5 * len(seeds)
        table = json.loads((table_of(root).parent / f"{experiment}.json").read_text("utf-8"))
        assert table["seeds"] == seeds
        for row in table["rows"]:
            tried = [(t["learning_rate"], t["seed"]) for t in row["trials"]]
            rates = [0.01, LOW, RECIPE, HIGH, 1.0]
            assert sorted(tried) == [(rate, seed) for rate in rates for seed in seeds]


def test_no_seed_of_the_sweep_is_in_the_fingerprint_of_a_cell() -> None:
    own = tiny.changed(asked(), "experiments/leaderboard/sweep_seeds", [105])
    rates = dict.fromkeys((BN, PLAIN), (0.1, 0.0))
    plain, other = (plan.cells(tiny.params(t), "leaderboard", rates) for t in (asked(), own))
    assert [c.on("images").fingerprint for c in plain] == [
        c.on("images").fingerprint for c in other
    ]


def test_one_method_at_a_time_makes_the_table_of_all(root: Path, trained: list[str]) -> None:
    tiny.write_params(root, two_methods())
    assert parser.main(["sweep"]) == 0
    whole, labels = table_of(root).read_bytes(), sorted(trained)
    table_of(root).unlink()
    records.store(root).folder.rename(root / "gone")
    trained.clear()
    assert parser.main(["sweep", "--method", "cool"]) == 0
    assert {label.partition("-")[0] for label in trained} == {"cool"}
    assert {row.method for row in rate_table.load(table_of(root))} == {"cool"}
    # The trials of the first method are known from the table alone, as in a fresh clone.
    records.store(root).folder.rename(root / "gone too")
    assert parser.main(["sweep", "--method", "simclr"]) == 0
    assert sorted(trained) == labels
    assert table_of(root).read_bytes() == whole


def test_a_method_is_planned_and_trained_as_soon_as_it_is_tuned(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str], train: list[str]
) -> None:
    """`longer` takes the rates of `cool`, so these are what it is tuned by."""
    tiny.write_params(root, two_methods())
    again = "`uv run benchmark sweep --experiment leaderboard --method longer`"
    assert parser.main(["plan", "--method", "longer"]) == 0
    assert f"2 rows without a tuned learning rate, some 5 trials each: {again}" in (
        capsys.readouterr().out
    )
    assert parser.main(["sweep", "--method", "longer"]) == 0
    assert {label.partition("-")[0] for label in trained} == {"cool"}
    capsys.readouterr()
    assert parser.main(["plan", "--method", "longer"]) == 0
    assert "tuned" not in capsys.readouterr().out
    for method in ("longer", "raw-pixels"):
        assert parser.main(["train", "--method", method]) == 0
    assert parser.main(["train", "--cell", "cool-resnet-bn-s0"]) == 0
    assert train == [
        "longer-resnet-bn-s0", "longer-resnet-none-plain-s0", "raw-pixels-pixels-none-s0",
        "cool-resnet-bn-s0",
    ]  # fmt: skip
    assert "no rate for simclr-resnet-bn" in tiny.refusal(capsys, "train", "--method", "simclr")
    assert "no rate for simclr-resnet-bn" in tiny.refusal(capsys, "train")
    assert "unknown method of experiment leaderboard 'colo'" in tiny.refusal(
        capsys, "sweep", "--method", "colo"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("sweep/seeds", [101]),
        ("sweep/seeds", [100, 101]),
        ("experiments/leaderboard/sweep_seeds", [101]),
        ("sweep/factor", 2.0),
        ("sweep/learning_rates", 7),
        ("training/batch_size", 16),
        ("methods/simclr/learning_rate/resnet", 0.2),
        ("data/seed", 1),
    ],
)
def test_rows_that_were_tuned_in_another_way_are_not_kept(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str], path: str, value: Any
) -> None:
    tiny.write_params(root, two_methods())
    assert parser.main(["sweep"]) == 0
    tree = tiny.changed(two_methods(), path, value)
    tiny.write_params(root, tree)
    if path == "data/seed":  # other splits: the images of another seed
        note = json.loads(tiny.note(tiny.params(tree)))
        note["splits"] = {name: part | {"sha256": "o"} for name, part in note["splits"].items()}
        splits = {name: Split.model_validate(part) for name, part in note["splits"].items()}
        note["sha256"] = dataset_checksum(splits)
        canonical_json.write(root / "data" / "mini" / "manifest.json", json.dumps(note))
    capsys.readouterr()
    trained.clear()
    assert parser.main(["sweep", "--method", "cool"]) == 0
    assert "left out simclr on resnet, which was tuned with other params" in capsys.readouterr().err
    assert {row.method for row in rate_table.load(table_of(root))} == {"cool"}
    assert trained
    assert parser.main(["sweep"]) == 0
    table = json.loads(table_of(root).read_text("utf-8"))
    assert {row["method"] for row in table["rows"]} == {"simclr", "cool"}
    for row in table["rows"]:
        assert {trial["seed"] for trial in row["trials"]} == set(table["seeds"])


def test_rows_that_fit_with_fewer_seeds_are_chosen_again(root: Path, trained: list[str]) -> None:
    """Their trials are all there; the fit is that of the seeds that count now."""
    tiny.write_params(root, tiny.changed(two_methods(), "sweep/seeds", [100, 101]))
    assert parser.main(["sweep"]) == 0
    tiny.write_params(root, two_methods())
    trained.clear()
    assert parser.main(["sweep", "--method", "cool"]) == 0
    assert trained == []
    merged = table_of(root).read_bytes()
    table_of(root).unlink()
    assert parser.main(["sweep"]) == 0
    assert table_of(root).read_bytes() == merged


def test_a_method_whose_trial_crashed_leaves_the_table(root: Path, trained: list[str]) -> None:
    tiny.write_params(root, two_methods())
    assert parser.main(["sweep", "--method", "simclr"]) == 0
    before = table_of(root).read_bytes()
    (root / "crashed").write_text("cool-resnet-bn-lr0.1-s100", encoding="utf-8")
    assert parser.main(["sweep", "--method", "cool"]) == 1
    assert table_of(root).read_bytes() == before
    # Nor does the method whose trials are not all there get a rate from the others.
    assert parser.main(["sweep", "--method", "simclr"]) == 0
    assert table_of(root).read_bytes() == before


def test_a_damaged_table_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    canonical_json.write(root / "results" / "mini" / "rates" / "leaderboard.json", '{"rows": [')
    assert "leaderboard.json: not a table of rates" in tiny.refusal(capsys, "sweep")


def test_a_table_of_version_1_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '{"rows": [{"method": "simclr", "family": "resnet", "scheme": "bn"}]}'
    canonical_json.write(root / "results" / "mini" / "rates" / "leaderboard.json", text)
    assert "a table of rates of version 1" in tiny.refusal(capsys, "sweep")


TABLES = sorted(tiny.PROJECT.glob("results/mini/rates/*.json"))


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem)
def test_a_published_table_is_written_as_it_was_read(file: Path) -> None:
    table = rate_table.RateTable.model_validate_json(file.read_bytes())
    assert canonical_json.pretty(table.as_json()).encode() == file.read_bytes()


def test_shards_of_a_sweep_make_the_table_of_the_whole(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["sweep"]) == 0
    table = root / "results" / "mini" / "rates" / "leaderboard.json"
    whole, labels = table.read_bytes(), sorted(trained)
    table.unlink()
    records.store(root).folder.rename(root / "gone")
    trained.clear()
    capsys.readouterr()
    assert parser.main(["sweep", "--shard", "1/2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "shard 1 of 2: 5 of 10 cells; 5 are left to the other shards"
    assert lines[1].startswith("no table yet: 5 trials of other shards without a result; ")
    assert not table.exists()
    assert len(trained) == 5
    assert parser.main(["sweep", "--shard", "2/2"]) == 0
    assert sorted(trained) == labels
    assert table.read_bytes() == whole


def test_a_shard_is_the_same_part_beside_a_table_of_rates(root: Path, trained: list[str]) -> None:
    """What is in a table is not trained, and the parts of the others do not move."""
    assert parser.main(["sweep", "--shard", "1/2"]) == 0
    first = set(trained)
    trained.clear()
    assert parser.main(["sweep"]) == 0
    records.store(root).folder.rename(root / "gone")
    tiny.write_params(root, tiny.changed(asked(), "sweep/seeds", [100, 101]))
    parts = []
    for place in (1, 2):
        trained.clear()
        assert parser.main(["sweep", "--shard", f"{place}/2"]) == 0
        parts.append(set(trained))
    assert first
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 10
    assert all(label.endswith("-s101") for label in parts[0] | parts[1])
