"""The view of the records in MLflow, on a database of its own for every test."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning.cell import fingerprint_of
from benchmark.results import records
from benchmark.results.published import read
from benchmark.results.records import Record, RunLog
from benchmark.tracking import runs as runview
from benchmark.tracking import sync as tracking
from benchmark.tracking.sync import Synced, sync
from tests.helpers import tiny

TRACK = "mini"
DATASET = "d" * 64
COMPONENTS = {"method simclr": 1}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database: making one takes seconds, so tests copy it."""
    root = tmp_path_factory.mktemp("database")
    (root / "results" / TRACK).mkdir(parents=True)
    sync(root, TRACK, tracking.default_database(root))
    return root / tracking.DATABASE


@pytest.fixture
def project(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    shutil.copy(database, tmp_path / tracking.DATABASE)
    (tmp_path / "results" / TRACK / "records").mkdir(parents=True)
    return tmp_path


def publish(
    root: Path,
    seed: int = 0,
    scheme: str = "bn",
    experiment: str = "leaderboard",
    status: str = "done",
    **result: Any,
) -> Path:
    """Writes the record of one cell, as `benchmark train` does."""
    label = f"simclr-vit-{scheme}-s{seed}"
    config = {
        "method": {"name": "simclr", "temperature": 0.2},
        "backbone": {"model": "vit", "embed_dim": 64},
        "norms": {"backbone": {"norm": scheme}, "projector": {"norm": "gn", "groups": 8}},
        "training": {
            "batch_size": 8,
            "images_seen": 80,
            "learning_rate": 0.1,
            "weight_decay": 0.0,
            "warmup_fraction": 0.1,
            "precision": "float32",
            "weight_decay_on": "weights",
            "view_batching": "joint",
            "optimizer": {"name": "adamw", "beta1": 0.9},
            "views": [{"flip": 0.5}, {"flip": 0.0}],
        },
        "evaluation": {
            "knn_k": [20, 200],
            "knn_temperature": 0.07,
            "probe_c": [1.0],
            "precise_bn_batch_size": 8,
            "judge": "test",
        },
        "seed": seed,
    }
    record = {
        "schema": records.SCHEMA,
        "fingerprint": fingerprint_of(config, COMPONENTS, DATASET),
        "dataset": DATASET,
        "cell": config,
        "components": COMPONENTS,
        "environment": {"device": "cpu", "torch": "2.11.0"},
        "status": status,
        "result": {
            "metrics": {
                "pooled.knn20": 0.75,
                "pooled.knn20.validation": 0.5,
                "pooled_reestimated.linear.penalty_at_edge": True,
                "class_token.knn20": None,
                "judge": "test",
            },
            "curves": {"step": [5.0, 10.0], "loss": [2.0, 1.0], "pretext": [None, 0.5]},
            "steps": 10,
            "parameters": 1000,
            "first_non_finite_step": None,
            "cause": None,
            **result,
        },
    }
    names = {"track": TRACK, "experiment": experiment, "method": "simclr", "backbone": "vit"}
    document = {**names, "scheme": scheme, "seed": seed, "label": label, "record": record}
    path = root / "results" / TRACK / "records" / experiment / "simclr" / f"{label}.json"
    canonical_json.write(path, canonical_json.pretty(document))
    return path


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking.default_database(root))


def runs(root: Path, experiment: str = "leaderboard") -> dict[str, Any]:
    """Runs by name; asserts that no name occurs twice."""
    found = client(root).get_experiment_by_name(f"{TRACK}/{experiment}")
    listed = client(root).search_runs([found.experiment_id])
    named = {run.info.run_name: run for run in listed}
    assert len(named) == len(listed)
    return named


def identifiers(root: Path) -> dict[str, str]:
    return {name: run.info.run_id for name, run in runs(root).items()}


def counts(synced: Synced) -> tuple[int, int, int, int]:
    return synced.created, synced.replaced, synced.unchanged, synced.removed


def test_a_run_shows_the_record(project):
    path = publish(project)
    entry = json.loads(path.read_text())["record"]
    log = {"started": 1000.0, "wall_seconds": 60.0, "images_per_second": 900.0, "host": "here"}
    records.store(project).put(Record.model_validate(entry), RunLog.model_validate(log))
    assert counts(sync(project, TRACK)) == (1, 0, 0, 0)
    run = runs(project)["simclr-vit-bn-s0"]
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1_000_000, 1_060_000)
    assert run.data.metrics == {
        "knn20": 0.75,
        "validation/knn20": 0.5,
        "validation/linear_penalty_at_edge_reestimated": 1.0,
        "train/loss": 1.0,
        "train/pretext_accuracy": 0.5,
        "usage/wall_seconds": 60.0,
        "usage/images_per_second": 900.0,
    }
    loss = client(project).get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in loss] == [(5, 2.0), (10, 1.0)]
    expected = {
        "method": "simclr",
        "method.temperature": "0.2",
        "scheme": "bn",
        "norms.backbone": "bn",
        "norms.projector": "gn groups=8",
        "training.learning_rate": "0.1",
        "training.optimizer": "adamw",
        "training.optimizer.beta1": "0.9",
        "views.2.flip": "0.0",
        "evaluation.knn_k": "[20, 200]",
        "seed": "0",
    }
    assert expected.items() <= run.data.params.items()
    tags = {
        "cell": "mini/leaderboard/simclr-vit-bn-s0",
        "fingerprint": entry["fingerprint"],
        "method": "simclr",
        "backbone": "vit",
        "scheme": "bn",
        "seed": "0",
        "status": "done",
        "split": "test",
        "dataset_sha256": DATASET,
    }
    assert tags.items() <= run.data.tags.items()
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == TRACK
    assert DATASET.startswith(used.dataset.digest)
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert json.loads((artifacts / "record.json").read_text()) == entry
    environment = json.loads((artifacts / "environment.json").read_text())
    assert environment == {"environment": entry["environment"], "run_log": log}


def test_two_syncs_give_the_same_runs(project):
    for seed in range(3):
        publish(project, seed)
    publish(project, experiment="other")
    assert counts(sync(project, TRACK)) == (4, 0, 0, 0)
    before = identifiers(project)
    assert counts(sync(project, TRACK)) == (0, 0, 4, 0)
    assert identifiers(project) == before
    assert list(runs(project, "other")) == ["simclr-vit-bn-s0"]


def test_a_changed_record_replaces_exactly_its_run(project):
    publish(project, 0)
    publish(project, 1)
    sync(project, TRACK)
    before = identifiers(project)
    publish(project, 1, metrics={"pooled.knn20": 0.25})
    assert counts(sync(project, TRACK)) == (0, 1, 1, 0)
    after = identifiers(project)
    assert after["simclr-vit-bn-s0"] == before["simclr-vit-bn-s0"]
    assert after["simclr-vit-bn-s1"] != before["simclr-vit-bn-s1"]
    assert runs(project)["simclr-vit-bn-s1"].data.metrics["knn20"] == 0.25


def test_a_changed_run_log_replaces_the_run(project):
    entry = read(publish(project))
    sync(project, TRACK)
    assert runs(project)["simclr-vit-bn-s0"].data.tags["times"] == "record file"
    records.store(project).put(entry.record, RunLog(started=1000.0, wall_seconds=1.0))
    assert counts(sync(project, TRACK)) == (0, 1, 0, 0)
    assert runs(project)["simclr-vit-bn-s0"].data.tags["times"] == "training"


@pytest.mark.parametrize("broken", ["log_inputs", "log_batch", "delete_run"])
def test_an_interrupted_sync_heals(project, monkeypatch, broken):
    import mlflow

    publish(project, 0)
    publish(project, 1)
    sync(project, TRACK)
    publish(project, 1, metrics={})

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, broken, interrupt)
        with pytest.raises(KeyboardInterrupt):
            sync(project, TRACK)
    sync(project, TRACK)
    assert set(runs(project)) == {"simclr-vit-bn-s0", "simclr-vit-bn-s1"}
    assert "knn20" not in runs(project)["simclr-vit-bn-s1"].data.metrics
    assert counts(sync(project, TRACK)) == (0, 0, 2, 0)


def test_records_that_are_gone_take_their_runs_with_them(project):
    paths = [publish(project, seed) for seed in range(2)]
    other = publish(project, experiment="other")
    sync(project, TRACK)
    foreign = client(project).create_run(
        client(project).get_experiment_by_name(f"{TRACK}/leaderboard").experiment_id,
        run_name="mine",
    )
    paths[0].unlink()
    other.unlink()
    assert counts(sync(project, TRACK)) == (0, 0, 1, 2)
    assert set(runs(project)) == {"simclr-vit-bn-s1", "mine"}
    assert foreign.info.run_id in identifiers(project).values()
    gone = client(project).get_experiment_by_name(f"{TRACK}/other")
    assert gone.lifecycle_stage == "deleted"
    # It comes back with its records, each of them once.
    publish(project, experiment="other")
    sync(project, TRACK)
    assert list(runs(project, "other")) == ["simclr-vit-bn-s0"]


def test_a_diverged_cell_is_a_failed_run_that_says_why(project):
    publish(
        project,
        status="diverged",
        metrics={},
        curves={"step": [5.0, 7.0], "loss": [2.0, None]},
        first_non_finite_step=7,
        cause="the loss was not finite at step 7",
    )
    sync(project, TRACK)
    run = runs(project)["simclr-vit-bn-s0"]
    assert run.info.status == "FAILED"
    assert run.data.tags["status"] == "diverged"
    assert run.data.tags["cause"] == "the loss was not finite at step 7"
    assert "diverged" in run.data.tags[runview.NOTE]
    assert run.data.metrics == {"train/loss": 2.0}


def test_a_crash_without_environment_or_metrics_is_shown(project):
    path = publish(project)
    document = json.loads(path.read_text())
    document["record"] |= {"status": "crashed", "environment": {}}
    document["record"]["result"] = {"metrics": {}, "curves": {}, "cause": "x" * 9000}
    canonical_json.write(path, canonical_json.pretty(document))
    sync(project, TRACK)
    assert runs(project)["simclr-vit-bn-s0"].info.status == "FAILED"


def test_values_that_are_not_finite_are_left_out(project):
    path = publish(project)
    # Records hold null instead, but other programs write NaN into JSON.
    whole = path.read_text()
    path.write_text(whole.replace("2.0", "Infinity"))
    with pytest.raises(
        UserError, match=r"not a record \(result\.curves\.loss\.0: .* finite number"
    ):
        read(path)
    path.write_text(whole.replace("0.75", "NaN").replace("2.0", "null"))
    entry = read(path)
    points = [*runview.finals(entry.record, RunLog()), *runview.curves(entry.record)]
    assert [point.key for point in points] == [
        "validation/knn20",
        "validation/linear_penalty_at_edge_reestimated",
        "train/loss",
        "train/pretext_accuracy",
    ]


def test_diagnostics_are_metrics_by_part_and_key(project):
    diagnostics = {
        "sections": {"backbone": {"width": 64, "lidar": 9.5}, "projector": {"lidar": None}},
        "leakage": {"swap_gap": 0.25, "same_group": None},
        "three_way": {"train_batch": 0.5},
        "stability": {"loss_spikes": 0},
    }
    publish(project, diagnostics=diagnostics)
    sync(project, TRACK)
    metrics = runs(project)["simclr-vit-bn-s0"].data.metrics
    assert {key: value for key, value in metrics.items() if key.startswith("diagnostics/")} == {
        "diagnostics/backbone_width": 64,
        "diagnostics/backbone_lidar": 9.5,
        "diagnostics/leakage_swap_gap": 0.25,
        "diagnostics/three_way_train_batch": 0.5,
        "diagnostics/stability_loss_spikes": 0,
    }


def test_tables_and_figures_are_one_run(project):
    publish(project)
    results = project / "results" / TRACK
    canonical_json.write(results / "leaderboard.md", "a table\n\n![a](figures/leaderboard.svg)\n")
    canonical_json.write(results / "other.md", "not this one's\n")
    canonical_json.write(results / "figures" / "leaderboard.svg", "<svg/>")
    assert counts(sync(project, TRACK)) == (2, 0, 0, 0)
    assert counts(sync(project, TRACK)) == (0, 0, 2, 0)
    run = runs(project)["leaderboard"]
    assert run.data.tags["kind"] == "table"
    assert run.data.tags[runview.NOTE].startswith("a table")
    assert "![" not in run.data.tags[runview.NOTE]
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    found = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*.*")}
    assert found == {"leaderboard.md", "figures/leaderboard.svg"}
    canonical_json.write(results / "leaderboard.md", "another table\n")
    assert counts(sync(project, TRACK)) == (0, 1, 1, 0)


def test_the_experiment_explains_itself(project):
    publish(project)
    sync(project, TRACK)
    found = client(project).get_experiment_by_name(f"{TRACK}/leaderboard")
    note = found.tags[runview.NOTE]
    assert note.startswith("1 training run. Start here: [")
    for tag in (tag for tag in found.tags if tag.startswith("mlflow.sharedViewState.")):
        assert f"#/experiments/{found.experiment_id}/runs" in note
        assert f"viewStateShareKey={tag.rpartition('.')[2]})" in note
        view = json.loads(found.tags[tag])
        assert "metrics.`knn20`" in json.loads(view["state"])["selectedColumns"]


def test_a_moved_project_starts_afresh(project, tmp_path_factory):
    publish(project)
    sync(project, TRACK)
    moved = tmp_path_factory.mktemp("moved") / "there"
    project.rename(moved)
    assert counts(sync(moved, TRACK)) == (1, 0, 0, 0)
    run = runs(moved)["simclr-vit-bn-s0"]
    assert run.info.artifact_uri.startswith((moved / tracking.ARTIFACTS).as_uri())
    assert counts(sync(moved, TRACK)) == (0, 0, 1, 0)
    moved.rename(project)


def test_a_server_that_is_not_there_is_one_line(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        sync(project, TRACK, "http://me:secret@127.0.0.1:9")
    assert time.monotonic() - begun < 20
    assert "\n" not in str(caught.value)
    assert str(caught.value) == "MLflow at http://127.0.0.1:9: no answer; is the server running?"


def test_a_folder_whose_name_an_address_would_change(tmp_path):
    """In processes of their own, as commands are: MLflow keeps a connection for each address."""
    project = tmp_path / "a%2Fb %?#"
    publish(project)
    said = [tiny.run(project, "sync", "--track", TRACK).stdout for _ in range(2)]
    assert [line.partition(": ")[2].partition(", 0 rem")[0] for line in said] == [
        "1 runs created, 0 replaced, 0 unchanged",
        "0 runs created, 0 replaced, 1 unchanged",
    ]
    assert (project / tracking.DATABASE).is_file()
    assert len(list((project / tracking.ARTIFACTS).rglob("record.json"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [project.name]


def test_a_folder_of_runs_is_refused_with_mlflows_remedy(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(UserError, match="MLFLOW_ALLOW_FILE_STORE=true"):
        sync(project, TRACK)


@pytest.mark.parametrize("uri", ["nonsense://x", "file:///nowhere"])
def test_an_address_mlflow_does_not_take_is_one_line(project, uri):
    with pytest.raises(UserError) as caught:
        sync(project, TRACK, uri)
    assert "\n" not in str(caught.value)


def test_a_track_without_results(project):
    with pytest.raises(UserError, match="results/cifar10 does not exist"):
        sync(project, "cifar10")


def test_watching_syncs_changes_only(project, monkeypatch, capsys):
    publish(project)
    looks = 0

    def look(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            publish(project, 1)
        if looks == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(tracking.time, "sleep", look)
    with pytest.raises(KeyboardInterrupt):
        tracking.watch(project, TRACK)
    lines = capsys.readouterr().err.splitlines()
    assert ["1 runs created" in line for line in lines] == [True, True]


def test_importing_it_is_cheap():
    code = "import sys, benchmark.tracking.sync; print('mlflow' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_a_run_has_a_tag_of_what_the_command_line_set(tmp_path: Path) -> None:
    path = publish(tmp_path)
    assert "overrides" not in runview.of_cell(read(path), RunLog()).tags
    document = json.loads(path.read_text(encoding="utf-8"))
    canonical_json.write(
        path, canonical_json.pretty(document | {"overrides": {"sweep.seeds": [1]}})
    )
    assert runview.of_cell(read(path), RunLog()).tags["overrides"] == "--set 'sweep.seeds=[1]'"
