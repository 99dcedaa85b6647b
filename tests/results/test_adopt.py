"""`benchmark adopt` publishes what another machine trained as `train` did there, or refuses it all."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import parser
from benchmark.core import canonical_json
from benchmark.planning import plan, rate_table, sweep
from benchmark.planning.cell import Cell, fingerprint_of
from benchmark.results.records import Record, RunLog, Store
from tests.helpers import tiny

ENVIRONMENT = {"device": "a GPU", "threads": 1}
IMAGES = json.loads(tiny.note(tiny.params()))["sha256"]
LABELS = ("simclr-resnet-bn-s0", "simclr-resnet-none-plain-s0")
CLEAN = {"commit": "a" * 40, "dirty": False, "lock_sha256": "l", "as_locked": True, "image": None}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the note of its images, and nothing trained."""
    root = tmp_path / "project"
    root.mkdir()
    tiny.write_params(root, tiny.raw())
    canonical_json.write(root / "data" / "mini" / "manifest.json", tiny.note(tiny.params()))
    monkeypatch.chdir(root)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    return root


@pytest.fixture
def away(tmp_path: Path) -> Store:
    """The folder from another machine."""
    return Store(tmp_path / "away")


def log(**program: Any) -> RunLog:
    given = {
        "started": 1_800_000_000.0, "wall_seconds": 60.0, "program": CLEAN | program,
        "machine": {"host": "there"},
    }  # fmt: skip
    return RunLog.model_validate(given)


def entry(label: str = LABELS[0], knn: float = 0.5, **given: Any) -> Record:
    found = {"dataset": IMAGES, "environment": ENVIRONMENT} | given
    return tiny.record(tiny.cell(label), {"metrics": {"pooled.knn5": knn}}, **found)


def adopt(store: Store, *options: str) -> int:
    return parser.main(["adopt", str(store.folder), *options])


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_adopted_is_published_as_train_published_it_there(tmp_path: Path) -> None:
    there = tiny.project(tmp_path / "there")
    here = tmp_path / "here"
    shutil.copytree(there, here)
    assert tiny.run(there, "train", "--device", "cpu").returncode == 0
    (there / ".benchmark" / "cells" / ("0" * 64)).mkdir()  # a cell that was stopped
    done = tiny.run(here, "adopt", str(there / ".benchmark"))
    assert done.returncode == 0, done.stderr
    assert "1 cell left: not finished" in done.stdout
    assert done.stdout.splitlines()[-1] == "5 adopted"
    assert tree(here / "results") == tree(there / "results")
    assert "mini/provenance/leaderboard/simclr.json" in tree(here / "results")
    before = tree(here)
    again = tiny.run(here, "adopt", str(there / ".benchmark"))
    assert again.stdout.splitlines()[-1] == "0 adopted"
    assert tree(here) == before
    trained = tiny.run(here, "train", "--device", "cpu")
    assert "0 trained, 5 found done" in trained.stderr


def put_changed(store: Store, **changed: Any) -> Path:
    """A sealed record with other content and a fingerprint that fits it."""
    given = entry().as_json() | changed
    own = fingerprint_of(given["cell"], given["components"], given["dataset"])
    record = Record.model_validate(given | {"fingerprint": own})
    store.put(record, log())
    return store.cell_dir(own) / "record.json"


def flipped(store: Store) -> Path:
    file = put_changed(store)
    file.write_text(file.read_text().replace('"pooled.knn5": 0.5', '"pooled.knn5": 0.6'))
    return file


def renamed(store: Store) -> Path:
    file = put_changed(store)
    return file.parent.rename(file.parents[1] / ("1" * 64)) / "record.json"


def resealed(store: Store) -> Path:
    """Whole by its seal, but its fingerprint is that of another configuration."""
    file = put_changed(store)
    given = canonical_json.read_sealed(file)
    assert given is not None
    given["cell"]["seed"] = 7
    canonical_json.write_sealed(file, given)
    return file


def foreign(store: Store) -> Path:
    return put_changed(store, cell=tiny.cell(LABELS[0]).config.as_json() | {"seed": 7})


def other_rate(store: Store) -> Path:
    config = copy.deepcopy(tiny.cell(LABELS[0]).config.as_json())
    config["training"]["learning_rate"] = 0.125
    return put_changed(store, cell=config)


def other_version(store: Store) -> Path:
    return put_changed(store, components=dict(tiny.cell(LABELS[0]).components) | {"training": 99})


def other_images(store: Store) -> Path:
    return put_changed(store, dataset="2" * 64)


def nowhere(store: Store) -> Path:
    return put_changed(store, environment={})


def unlogged(store: Store) -> Path:
    file = put_changed(store)
    file.with_name("run.json").unlink()
    return file


def nameless(store: Store) -> Path:
    file = put_changed(store)
    canonical_json.write_sealed(file.with_name("run.json"), {"started": 1.0})
    return file


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (flipped, "damaged"),
        (renamed, "damaged"),
        (resealed, "the fingerprint of its content is"),
        (foreign, "not a cell of a planned experiment on mini"),
        (other_rate, "its learning rate is 0.125, and mini/leaderboard/simclr-resnet-bn-s0 has"),
        (other_version, "training is 99, here "),
        (other_images, f"checksum {'2' * 64}; those of mini: {IMAGES}"),
        (nowhere, "device"),
        (unlogged, "run.json is missing, damaged"),
        (nameless, "no program, machine and start"),
    ],
)
def test_one_wrong_record_is_named_and_nothing_is_adopted(
    root: Path,
    away: Store,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Store], Path],
    said: str,
) -> None:
    away.put(entry(LABELS[1]), log())
    file = spoil(away)
    before = tree(root)
    line = tiny.refusal(capsys, "adopt", str(away.folder))
    assert said in line
    assert str(file) in line
    assert "nothing was adopted, 1 of 2 records" in line
    assert tree(root) == before


def test_a_folder_without_a_store_is_refused(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cells/FINGERPRINT/record.json" in tiny.refusal(capsys, "adopt", str(away.folder))
    away.put(entry(), log())
    (away.folder / "schema").write_text("1\n")
    assert "schema is 1, expected 2" in tiny.refusal(capsys, "adopt", str(away.folder))
    (away.folder / "schema").unlink()
    (away.folder / "schema").mkdir()
    assert "schema: not a version" in tiny.refusal(capsys, "adopt", str(away.folder))


def test_images_that_are_not_built_are_asked_for(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    away.put(entry(), log())
    (root / "data" / "mini" / "manifest.json").unlink()
    assert "run `uv run benchmark data mini`" in tiny.refusal(capsys, "adopt", str(away.folder))


@pytest.mark.parametrize("published", [False, True])
def test_a_record_of_the_same_environment_must_be_equal(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str], published: bool
) -> None:
    for label in LABELS:
        away.put(entry(label), log())
    assert adopt(away) == 0
    if published:
        shutil.rmtree(root / ".benchmark")  # as in a clone
    before = tree(root)
    away.put(entry(knn=0.6), log())
    line = tiny.refusal(capsys, "adopt", str(away.folder))
    assert "mini/leaderboard/simclr-resnet-bn-s0: not equal to" in line
    assert tree(root) == before


def test_a_record_of_another_environment_stays(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    here = entry(knn=0.6, environment={"device": "cpu"})
    tiny.store(root).put(here, log())
    for label in LABELS:
        away.put(entry(label), log())
    assert adopt(away) == 0
    assert "1 record not adopted: another environment" in capsys.readouterr().out
    assert tiny.store(root).record(here.fingerprint) == here
    found = json.loads(tiny.published(root)["simclr/simclr-resnet-bn-s0.json"])
    assert found["record"]["result"]["metrics"] == {"pooled.knn5": 0.6}


def test_only_whole_methods_are_published(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    away.put(entry(LABELS[0]), log(dirty=True))
    away.put(entry(LABELS[1], status="crashed"), log())
    assert adopt(away) == 0
    out = capsys.readouterr().out
    assert "mini/leaderboard/simclr: 1 of 2 cells missing, so it is not published" in out
    assert "1 record marked dirty: " in out
    assert "1 record made without the pinned image" in out
    assert "1 cell left: crashed" in out
    assert tiny.published(root) == {}
    away.put(entry(LABELS[1]), log(image=IMAGE))
    assert adopt(away) == 0
    assert "1 record made without the pinned image" in capsys.readouterr().out
    assert sorted(tiny.published(root)) == [f"simclr/{label}.json" for label in LABELS]


IMAGE = {"commit": "a" * 40, "lock_sha256": "l", "base": "b", "base_digest": "d"}


def test_trials_come_first_and_cells_follow_when_their_rate_is_chosen(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    tree_ = tiny.changed(tiny.raw(), "experiments/leaderboard/learning_rates", "tuned")
    tiny.write_params(root, tree_)
    params = tiny.params(tree_)
    rows = sweep.tunable(params, "leaderboard")
    trial = sweep.trials(params, rows[0], [1])[0].cell
    rates = {row: (sweep.rate_at(params, row, 0.5), 0.0) for row in rows}
    cells = [c for c in plan.cells(params, "leaderboard", rates) if c.method == "simclr"]

    def put(cell: Cell) -> Record:
        made = tiny.record(cell, {"metrics": {}}, "done", IMAGES, ENVIRONMENT)
        away.put(made, log())
        return made

    tried, made = put(trial), [put(cell) for cell in cells]
    assert adopt(away) == 0
    out = capsys.readouterr().out
    assert "2 cells left: their learning rates have not been chosen here, as by `uv run dvc" in out
    assert tiny.store(root).record(tried.fingerprint) == tried
    assert tiny.store(root).record(made[0].fingerprint) is None
    table = sweep.tune(
        params, "leaderboard",
        lambda all_: {c.label: rate_table.Result("f", "done", 0.5) for c in all_}, lambda line: None,
    )  # fmt: skip
    chosen = [
        row.model_copy(update={"learning_rate": rates[row.row][0], "weight_decay": 0.0})
        for row in table
    ]
    rate_table.write(rate_table.path(root, "mini", "leaderboard"), params, "leaderboard", chosen)
    assert adopt(away) == 0
    assert tiny.store(root).record(made[0].fingerprint) == made[0]
    assert len(tiny.published(root)) == len(cells)


def test_the_experiment_and_the_track_limit_what_is_planned(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    away.put(entry(), log())
    assert "not a cell of a planned" in tiny.refusal(
        capsys, "adopt", str(away.folder), "--experiment", "long"
    )
    for options, said in [
        (["--experiment", "leaderbord"], "did you mean 'leaderboard'"),
        (["--track", "minni"], "did you mean 'mini'"),
        (["--set", "training.batch_size=16"], "--track"),
        (["--track", "mini", "--set", "training.batch_size=16"], "not a cell of a planned"),
    ]:
        capsys.readouterr()
        assert parser.main(["adopt", str(away.folder), *options]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert adopt(away, "--track", "mini", "--experiment", "leaderboard") == 0
