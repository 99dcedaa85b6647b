"""`benchmark adopt` publishes what another machine trained as `train` did there, or refuses it all."""

from __future__ import annotations

import copy
import hashlib
import itertools
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
from benchmark.results import contents, published
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


STARTS = itertools.count(1_800_000_000)
"""No two cells start at the same moment."""


def log(**program: Any) -> RunLog:
    given = {
        "started": float(next(STARTS)), "wall_seconds": 60.0, "program": CLEAN | program,
        "machine": {"host": "there"},
    }  # fmt: skip
    return RunLog.model_validate(given)


KNN = "pooled_reestimated.knn5"


def result(knn: float = 0.5) -> dict[str, Any]:
    """The result of a cell of SimCLR that classifies `knn` of ten test images correctly."""
    scores = dict.fromkeys(("knn5", "knn5.validation", "knn20", "knn20.validation"), knn)
    scores |= {"linear": 0.6, "linear.validation": 0.7, "linear.penalty": 0.1}
    metrics: dict[str, Any] = {
        f"{readout}.{key}": value
        for readout in ("pooled", "pooled_reestimated")
        for key, value in (scores | {"linear.penalty_at_edge": False}).items()
    }
    ones = round(10 * knn)
    sections = {"backbone": {"embedding_std": 0.1, "rankme": None}}
    curve = [0.5] * 30
    return {
        "metrics": metrics | {"judge": "test"},
        "correct": f"{int(('1' * ones).ljust(12, '0'), 2):03x}",
        "diagnostics": {"stability": {}, "sections": sections, "leakage": {}, "three_way": {}},
        "curves": {
            "step": [float(n + 1) for n in range(30)],
            "loss": curve,
            "gradient_norm": curve,
        },
        "steps": 30,
    }


def entry(label: str = LABELS[0], knn: float = 0.5, **given: Any) -> Record:
    found = {"dataset": IMAGES, "environment": ENVIRONMENT} | given
    failed = found.get("status", "done") != "done"
    return tiny.record(tiny.cell(label), {} if failed else result(knn), **found)


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
    file.write_text(file.read_text().replace(f'"{KNN}": 0.5', f'"{KNN}": 0.6'))
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


def with_(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the value at a path of keys."""
    *above, last = path.split("/")

    def change(found: dict[str, Any]) -> None:
        for key in above:
            found = found[key]
        found[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_(f"metrics/{KNN}", 0.99), f"metrics.{KNN} is 0.99, and by `correct` 5 of "),
        (with_(f"metrics/{KNN}", 7.0), f"metrics.{KNN} is 7.0, expected a number from 0 to 1"),
        (with_(f"metrics/{KNN}", -1), f"metrics.{KNN} is -1, expected a number from 0 to 1"),
        (with_(f"metrics/{KNN}", "abc"), f"metrics.{KNN} is 'abc', expected a number from 0 to 1"),
        (with_(f"metrics/{KNN}", True), f"metrics.{KNN} is True, expected a number from 0 to 1"),
        (with_("metrics/pooled.linear.penalty", 0), "metrics.pooled.linear.penalty is 0, expected"),
        (
            with_("metrics/pooled.knn7", 0.5),
            "metrics.pooled.knn7: the evaluation of this cell has no",
        ),
        (with_("metrics", {}), "metrics.judge is missing"),
        (lambda found: found["metrics"].pop("pooled.linear"), "metrics.pooled.linear is missing"),
        (with_("metrics/judge", "train"), "metrics.judge is 'train', expected 'test'"),
        (with_("correct", "xyz"), "correct is 'xyz', expected hexadecimal bits"),
        (with_("correct", "fff"), f"metrics.{KNN} is 0.5, and by `correct` 12 of 12 images"),
        (with_("correct", None), f"correct is null, and metrics.{KNN} is 0.5"),
        (with_("curves/loss", [0.5]), "curves.loss has 1 values, and curves.step 30"),
        (with_("curves", {}), "curves.step is missing"),
        (with_("steps", 29), "steps is 29, expected 30"),
        (with_("diagnostics", {"garbage": 1}), "diagnostics.garbage is not measured for this cell"),
        (with_("diagnostics/leakage", {"swap_gap": "x"}), "diagnostics.leakage.swap_gap is 'x'"),
        (with_("diagnostics/leakage", 3), "diagnostics.leakage is 3, expected its measures"),
    ],
)
def test_a_result_that_the_cell_cannot_have_is_refused(
    root: Path,
    away: Store,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], object],
    said: str,
) -> None:
    """Also if its seal was made again: the first wrong key is named, and nothing is adopted."""
    away.put(entry(LABELS[1]), log())
    found = result()
    change(found)
    made = tiny.record(tiny.cell(LABELS[0]), found, dataset=IMAGES, environment=ENVIRONMENT)
    away.put(made, log())
    line = tiny.refusal(capsys, "adopt", str(away.folder))
    assert f"mini/leaderboard/{LABELS[0]}: {said}" in line
    assert not (root / ".benchmark").exists()
    assert tiny.published(root) == {}


@pytest.mark.parametrize("devices", [-3, 0, 1, True, 2.5, "2", "x to 2", None])
def test_a_number_of_devices_that_cannot_be_is_refused(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str], devices: Any
) -> None:
    away.put(entry(environment=ENVIRONMENT | {"devices": devices}), log())
    line = tiny.refusal(capsys, "adopt", str(away.folder))
    assert f"environment.devices is {devices!r}, expected a number from 2" in line


@pytest.mark.parametrize("devices", [2, 8, "1 to 2"])
def test_several_devices_are_adopted(root: Path, away: Store, devices: Any) -> None:
    away.put(entry(environment=ENVIRONMENT | {"devices": devices}), log())
    assert adopt(away) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"machine": {"device": "cpu"}},
            "machine.device is 'cpu', and the record's environment has",
        ),
        ({"machine": {"threads": 3}}, "machine.threads is 3, and the record's environment has 1"),
        # 30 steps of 32 images are 960.
        (
            {"training_seconds": 2.0, "images_per_second": 481.0},
            "is 962, and the cell has 960 images",
        ),
        (
            {"training_seconds": 2.0, "images_per_second": 480.0, "resumed_at_step": 10},
            "is 960, and the cell has 640 images",
        ),
    ],
)
def test_the_run_log_of_another_cell_is_refused(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str], given: dict[str, Any], said: str
) -> None:
    away.put(entry(), RunLog.model_validate(log().as_json() | given))
    line = tiny.refusal(capsys, "adopt", str(away.folder))
    assert f"mini/leaderboard/{LABELS[0]}: its run.json is not of this cell: " in line
    assert said in line
    fits = {"training_seconds": 2.0, "images_per_second": 480.0, "resumed_at_step": 0}
    away.put(entry(), RunLog.model_validate(log().as_json() | fits))
    assert adopt(away) == 0


def test_one_run_log_of_two_cells_is_refused(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = log()
    for label in LABELS:
        away.put(entry(label), copied)
    assert "its run.json is also that of " in tiny.refusal(capsys, "adopt", str(away.folder))


def test_a_record_must_have_the_checksum_in_the_published_table(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a clone whose records DVC has not brought, but whose table git has."""
    for label in LABELS:
        away.put(entry(label), log())
    assert adopt(away, "--experiment", "leaderboard") == 0
    texts = {Path(name).stem: text for name, text in tiny.published(root).items()}
    shutil.rmtree(root / "results" / "mini" / "records")
    shutil.rmtree(root / ".benchmark")
    rows: list[dict[str, Any]] = [
        {
            "method": "simclr", "backbone": "resnet", "scheme": scheme, "environments": [0],
            "records": [{"label": label, "sha256": hashlib.sha256(texts[label]).hexdigest()}],
        }
        for label, scheme in zip(LABELS, ("bn", "none-plain"), strict=True)
    ]  # fmt: skip
    table = {"dataset": IMAGES, "environments": [ENVIRONMENT], "rows": rows}
    file = root / "results" / "mini" / "leaderboard.json"
    canonical_json.write(file, canonical_json.pretty(table))
    assert adopt(away) == 0
    shutil.rmtree(root / "results" / "mini" / "records")
    shutil.rmtree(root / ".benchmark")
    away.put(entry(knn=0.6), log())
    line = tiny.refusal(capsys, "adopt", str(away.folder))
    assert f"{rows[0]['records'][0]['sha256']}" in line
    assert f"mini/leaderboard/{LABELS[0]}: its published record has sha256 " in line
    # Another environment may have another record.
    away.put(entry(knn=0.6, environment=ENVIRONMENT | {"threads": 2}), log())
    assert adopt(away) == 0


def test_every_published_record_has_a_result_that_its_cell_can_have() -> None:
    """Those of this repository: hundreds of cells, some with collapsed embeddings."""
    files = published.files(tiny.PROJECT / "results" / "mini" / "records")
    assert len(files) > 300
    for file in files:
        assert contents.fault(published.read(file).record) is None, file


@pytest.mark.parametrize("kept", [False, True])
def test_a_record_of_the_same_environment_must_be_equal(
    root: Path, away: Store, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    for label in LABELS:
        away.put(entry(label), log())
    assert adopt(away) == 0
    if kept:
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
    assert found["record"]["result"]["metrics"][KNN] == 0.6


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
    trial = sweep.trials(params, "leaderboard", rows[0], [1])[0].cell
    rates = {row: (sweep.rate_at(params, row, 0.5), 0.0) for row in rows}
    cells = [c for c in plan.cells(params, "leaderboard", rates) if c.method == "simclr"]

    def put(cell: Cell) -> Record:
        # Of two results that have no metrics.
        found = {"cause": "the loss was not finite at step 1", "diagnostics": {"stability": {}}}
        if cell.config.evaluation.judge == "validation":
            del found["diagnostics"]
        made = tiny.record(cell, found, "diverged", IMAGES, ENVIRONMENT)
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
