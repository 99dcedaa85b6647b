"""Real workers in a tiny project: what is trained, interrupted, killed and resumed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmark.core import canonical_json, determinism
from benchmark.core.errors import UserError
from benchmark.execution.cell import run
from benchmark.execution.missing import kept
from benchmark.results import published as collect
from benchmark.results.records import Record, Result, RunLog
from benchmark.training.checkpoint import save_checkpoint
from tests.helpers import tiny
from tests.helpers.warm import Ended

ORDER = [
    "simclr-resnet-bn-s0",
    "simclr-resnet-none-plain-s0",
    "supervised-resnet-bn-s0",
    "supervised-resnet-none-plain-s0",
    "raw-pixels-pixels-none-s0",
]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that nothing was trained in; to be copied."""
    return tiny.project(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def trained(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A project whose leaderboard was trained by one worker, and how that went."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(fresh, root, dirs_exist_ok=True)
    return root, tiny.run(root, "train", "--jobs", "1")


@pytest.fixture
def root(fresh: Path, tmp_path: Path) -> Path:
    shutil.copytree(fresh, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_train_trains_and_publishes_every_cell(
    trained: tuple[Path, Ended],
) -> None:
    root, done = trained
    assert done.returncode == 0, done.stderr
    shown = dict(line.split(": ") for line in done.stdout.splitlines())
    assert list(shown) == [label.removesuffix("-s0") for label in ORDER]
    assert shown.pop("supervised-resnet-none-plain") == "diverged"
    for row, said in shown.items():
        (file,) = [name for name in tiny.published(root) if row in name]
        found = json.loads(tiny.published(root)[file])["record"]
        score = found["result"]["metrics"].get("pooled_reestimated.knn5")
        assert said == (found["status"] if score is None else f"kNN {100 * score:.1f} %")
    assert sum("kNN" in said for said in shown.values()) >= 3
    # A loaded machine may have time for lines about a cell under way.
    lines = [line for line in done.stderr.splitlines() if ": step " not in line]
    assert lines[0] == "5 cells to train, 0 already done"
    assert lines[-1] == "5 trained, 0 found done, 0 crashed"
    assert len([line for line in lines if line.startswith("[") and "left" in line]) >= 5
    records = tiny.published(root)
    assert {Path(name).stem for name in records} == set(ORDER)
    assert all(Path(name).parent.name in Path(name).stem for name in records)
    assert not list(root.rglob("*.part"))
    assert not list(root.rglob("checkpoint.safetensors"))


def test_a_training_that_diverges_is_a_result(
    trained: tuple[Path, Ended],
) -> None:
    root, done = trained
    name = "supervised/supervised-resnet-none-plain-s0.json"
    record = json.loads(tiny.published(root)[name])["record"]
    result = record["result"]
    assert done.returncode == 0
    assert record["status"] == "diverged"
    assert result["metrics"] == {}
    assert 1 <= result["first_non_finite_step"] <= 30
    assert str(result["first_non_finite_step"]) in result["cause"]
    assert "supervised-resnet-none-plain-s0: diverged" in done.stderr


def test_cells_that_finish_have_finite_metrics_and_curves(
    trained: tuple[Path, Ended],
) -> None:
    root, _ = trained
    record = json.loads(tiny.published(root)["simclr/simclr-resnet-bn-s0.json"])["record"]
    result = record["result"]
    assert record["status"] == "done"
    assert 0 <= result["metrics"]["pooled.knn5"] <= 1
    assert result["steps"] == len(result["curves"]["loss"]) == 30
    assert all(value is not None for value in result["curves"]["loss"])
    assert result["flops_per_step"] > 0


def test_a_second_run_trains_nothing_and_changes_nothing(
    trained: tuple[Path, Ended],
) -> None:
    root, _ = trained
    before = tiny.published(root)
    again = tiny.run(root, "train")
    assert again.returncode == 0
    assert again.stderr == "0 trained, 5 found done, 0 crashed\n"
    assert tiny.published(root) == before


def test_a_fresh_clone_trains_only_what_is_not_published(
    root: Path, trained: tuple[Path, Ended]
) -> None:
    """Published records count as found where their environment is this one and they are whole."""
    shutil.copytree(trained[0] / "results", root / "results")
    folder = root / "results" / "mini" / "records" / "leaderboard"
    (folder / "simclr" / "simclr-resnet-bn-s0.json").write_text("{", encoding="utf-8")
    elsewhere = folder / "simclr" / "simclr-resnet-none-plain-s0.json"
    document = json.loads(elsewhere.read_text(encoding="utf-8"))
    document["record"]["environment"]["torch"] = "2.0.0"
    elsewhere.write_text(canonical_json.pretty(document), encoding="utf-8")
    (folder / "raw-pixels" / "raw-pixels-pixels-none-s0.json").unlink()
    done = tiny.run(root, "train", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "3 trained, 2 found done, 0 crashed"
    assert tiny.published(root) == tiny.published(trained[0])


def test_two_workers_give_the_bytes_of_one(root: Path, trained: tuple[Path, Ended]) -> None:
    assert tiny.run(root, "train", "--jobs", "2").returncode == 0
    assert tiny.published(root) == tiny.published(trained[0])


def test_two_shards_at_once_train_what_one_run_trains(
    root: Path, trained: tuple[Path, Ended]
) -> None:
    """In one folder, each cell once; the same command without a shard then has nothing to train."""
    said = tiny.at_once(root, *(["train", "--jobs", "1", "--shard", f"{n}/2"] for n in (1, 2)))
    for place, text in enumerate(said, 1):
        own = 5 // 2 + place % 2
        lines = text.splitlines()
        assert lines[0] == (
            f"shard {place} of 2: {own} of 5 cells; {5 - own} are left to the other shards"
        )
        assert f"{own} trained, 0 found done, 0 crashed" in lines
    done = tiny.run(root, "train")
    assert done.returncode == 0
    assert done.stderr == "0 trained, 5 found done, 0 crashed\n"
    assert tiny.published(root) == tiny.published(trained[0])


def test_a_shard_publishes_whole_methods_only(root: Path, trained: tuple[Path, Ended]) -> None:
    """Raw pixels cost least, so they are in the last of five shards, by themselves."""
    done = tiny.run(root, "train", "--shard", "5/5")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "1 trained, 0 found done, 0 crashed" in lines
    assert lines[-1] == (
        "not published: simclr, supervised (4 cells without a result); when all shards are done, the "
        "same command without --shard publishes them"
    )
    (name,) = tiny.published(root)
    assert tiny.published(root)[name] == tiny.published(trained[0])[name]
    assert name == "raw-pixels/raw-pixels-pixels-none-s0.json"
    wrong = tiny.run(root, "train", "--shard", "6/5")
    assert wrong.returncode == 2
    assert wrong.stderr == (
        "benchmark: --shard is '6/5', expected I/N with I from 1 to N, e.g. 2/8\n"
    )


def test_a_shard_counts_what_is_published_of_the_others(
    trained: tuple[Path, Ended], tmp_path: Path
) -> None:
    """As in a fresh clone, with an empty store and then with the shard's own records in it."""
    root = tmp_path / "copy"
    shutil.copytree(trained[0], root)
    shutil.rmtree(root / ".benchmark")
    before = tiny.published(root)
    for _ in range(2):
        done = tiny.run(root, "train", "--shard", "1/2")
        assert done.returncode == 0, done.stderr
        assert "0 trained, 3 found done, 0 crashed" in done.stderr.splitlines()
        assert "not published" not in done.stderr
        assert tiny.published(root) == before
    # A record of another environment does not count: the other shard trains its cell.
    for file in (root / "results" / "mini" / "records" / "leaderboard").rglob("*.json"):
        file.write_text(file.read_text().replace('"threads": 1', '"threads": 2'))
    done = tiny.run(root, "train", "--shard", "1/2")
    assert "(2 cells without a result)" in done.stderr


def test_one_cell_is_trained_but_not_published(trained: tuple[Path, Ended], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(trained[0], root)
    shutil.rmtree(root / "results")
    done = tiny.run(root, "train", "--cell", "mini/leaderboard/simclr-resnet-bn-s0")
    assert done.returncode == 0
    record = json.loads(Path(done.stdout.strip()).read_text(encoding="utf-8"))
    assert record["cell"]["method"]["name"] == "simclr"
    assert tiny.published(root) == {}


@pytest.fixture
def long(root: Path) -> Iterator[tuple[Path, Path, list[subprocess.Popen[str]]]]:
    """A project, the checkpoint of its long cell, and a list for the commands to clean up."""
    cell = tiny.cell("rotation-resnet-bn-s0", "long")
    checkpoint = tiny.store(root).checkpoint(cell.on(tiny.dataset(root)).fingerprint)
    started: list[subprocess.Popen[str]] = []
    yield root, checkpoint, started
    for process in started:
        tiny.end(process)


def gone(leader: int) -> bool:
    return not tiny.group(leader)


# Ctrl-C in a terminal reaches every process of the group. So does a batch system's termination, which
# ends the fork server too. A user's termination reaches only the first.
STOPS = [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)]


@pytest.mark.parametrize("stops", [STOPS[:1], pytest.param(STOPS, marks=pytest.mark.slow)], ids=len)
def test_stopped_and_killed_in_every_way_it_goes_on_to_the_same_bytes(
    long: tuple[Path, Path, list[subprocess.Popen[str]]],
    tmp_path: Path,
    stops: list[tuple[int, bool]],
) -> None:
    root, checkpoint, started = long

    def train() -> tuple[subprocess.Popen[str], int]:
        """Starts the command and waits for it to have saved more than there was."""
        before = tiny.steps_saved(checkpoint)
        process = tiny.begin(root, "train", "--experiment", "long", "--jobs", "1")
        started.append(process)
        tiny.wait_for(lambda: tiny.steps_saved(checkpoint) > before or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process, tiny.steps_saved(checkpoint)

    for number, whole_group in stops:
        process, saved = train()
        leader, asked = process.pid, time.monotonic()
        (os.killpg if whole_group else os.kill)(leader, number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert time.monotonic() - asked < 20
        assert "benchmark: interrupted; run the same command again to finish" in said
        (kept,) = [line.strip() for line in said.splitlines() if "steps are saved" in line]
        steps = tiny.steps_saved(checkpoint)
        assert kept == (f"mini/long/rotation-resnet-bn-s0: {steps} of {tiny.LONG} steps are saved")
        assert "Traceback" not in said
        assert tiny.steps_saved(checkpoint) > saved
        tiny.wait_for(functools.partial(gone, leader), seconds=10)

    # Without their parent the workers save and end by themselves.
    process, saved = train()
    process.kill()
    process.wait()
    tiny.wait_for(functools.partial(gone, process.pid), seconds=20)
    assert tiny.steps_saved(checkpoint) > saved

    process, saved = train()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert tiny.published(root, "long") == {}

    done = tiny.run(root, "train", "--experiment", "long", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    task = tiny.cell("rotation-resnet-bn-s0", "long").on(tiny.dataset(root))
    log = tiny.store(root).run_log(task.fingerprint)
    assert log.resumed_at_step is not None
    assert log.resumed_at_step >= saved > 0
    assert not checkpoint.exists()

    other = tiny.store(tmp_path / "uninterrupted")
    made = run(task, root / "data" / "mini", other, determinism.start("cpu"), lambda *_: True)
    (found,) = tiny.published(root, "long").values()
    assert found.decode() == collect.document(task.cell, made)


def test_a_killed_worker_costs_its_cell_only(
    long: tuple[Path, Path, list[subprocess.Popen[str]]],
) -> None:
    root, _, started = long
    tree = tiny.raw()
    tree["experiments"]["long"]["methods"] = ["rotation", "raw-pixels"]
    tree["methods"]["rotation"]["images_seen"] = 500 * tiny.BATCH
    cell = tiny.cell("rotation-resnet-bn-s0", "long", tree)
    checkpoint = tiny.store(root).checkpoint(cell.on(tiny.dataset(root)).fingerprint)
    tiny.write_params(root, tree)
    process = tiny.begin(root, "train", "--experiment", "long", "--jobs", "1")
    started.append(process)
    tiny.wait_for(lambda: tiny.steps_saved(checkpoint) > 0)
    (worker,) = tiny.workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "1 trained, 0 found done, 1 crashed" in said
    assert said.splitlines()[-1] == (
        "benchmark: 1 of 2 cells crashed: mini/long/rotation-resnet-bn-s0; "
        "the same command trains them again"
    )
    tiny.check_killed_worker(tiny.published(root, "long"))
    plan = json.loads(tiny.run(root, "plan", "--experiment", "long", "--json").stdout)
    assert [entry["state"] for entry in plan] == ["crashed", "done"]

    again = tiny.run(root, "train", "--experiment", "long", "--jobs", "1")
    assert again.returncode == 0
    assert "1 trained, 1 found done, 0 crashed" in again.stderr
    records = tiny.published(root, "long")
    assert json.loads(records["rotation/rotation-resnet-bn-s0.json"])["record"]["status"] == "done"


def test_what_cannot_be_saved_is_said(long: tuple[Path, Path, list[subprocess.Popen[str]]]) -> None:
    """Workers that do not answer are killed; the lines are what the store holds."""
    root, checkpoint, _ = long
    cell = tiny.cell("rotation-resnet-bn-s0", "long")
    task = cell.on(tiny.dataset(root))
    store = tiny.store(root)
    none = f"{cell.name}: 0 of {tiny.LONG} steps are saved"
    assert kept(task, store, 0) == none
    assert kept(task, store, 7) == f"{none}; 7 more are lost"
    checkpoint.parent.mkdir(parents=True)
    canonical_json.write(checkpoint, b"half")
    assert kept(task, store, 7) == f"{none}; 7 more are lost"
    network = torch.nn.Linear(1, 1)
    save_checkpoint(checkpoint, "any", 5, network, None, {})
    assert kept(task, store, 7) == (
        f"{cell.name}: 5 of {tiny.LONG} steps are saved; 2 more are lost"
    )
    save_checkpoint(store.trained(task.training_key), "any", tiny.LONG, network, None, {})
    assert kept(task, store, 7).endswith("its training is saved; its evaluation starts again")
    store.put(Record.of(task, {}, "done", Result()), RunLog())
    assert kept(task, store, 7) == f"{cell.name}: finished"
    control = tiny.cell("raw-pixels-pixels-none-s0").on(task.dataset)
    assert "nothing to save" in kept(control, store, 0)


def test_a_lack_of_memory_is_trained_again_when_asked(root: Path) -> None:
    """By default it is a result, also in a published record after the store is gone."""
    tree = tiny.raw()
    tree["experiments"]["long"]["methods"] = ["raw-pixels"]
    tiny.write_params(root, tree)
    cell = tiny.cell("raw-pixels-pixels-none-s0", "long", tree)
    environment = determinism.environment(determinism.start("cpu"))
    result = Result(metrics={}, curves={}, cause="out of memory")
    made = Record.of(cell.on(tiny.dataset(root)), environment, "out-of-memory", result)
    canonical_json.write(collect.file_of(cell, root), collect.document(cell, made))

    def states() -> list[str]:
        shown = tiny.run(root, "plan", "--experiment", "long", "--json").stdout
        return [entry["state"] for entry in json.loads(shown)]

    def train(*options: str) -> str:
        done = tiny.run(root, "train", "--experiment", "long", *options)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()[-1]

    assert states() == ["out-of-memory"]
    assert train() == "0 trained, 1 found done, 0 crashed"
    assert states() == ["out-of-memory"]
    shown = tiny.run(root, "plan", "--experiment", "long").stdout
    assert "1 cell, 0 to train" in shown
    assert "1 ran out of memory: `uv run benchmark train --retry` trains them again" in shown
    assert train("--retry") == "1 trained, 0 found done, 0 crashed"
    assert states() == ["done"]
    assert train("--retry") == "0 trained, 1 found done, 0 crashed"


def test_a_stop_at_once_is_quiet(root: Path) -> None:
    """Also while the workers are still starting."""
    process = tiny.begin(root, "train", "--jobs", "1")
    try:
        tiny.wait_for(lambda: tiny.workers(process.pid))
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        tiny.wait_for(functools.partial(gone, process.pid), seconds=10)
    finally:
        tiny.end(process)


def test_a_norm_that_does_not_fit_is_refused_before_any_training(root: Path) -> None:
    tree = tiny.changed(tiny.raw(), "schemes/bn", {"norm": "gn", "groups": 3})
    tiny.write_params(root, tree)
    done = tiny.run(root, "train", "--jobs", "1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("benchmark: norm 'gn' is not defined at bn1 of the backbone")
    assert "groups 3 do not divide" in line
    assert not (root / ".benchmark").exists()


def test_damaged_images_are_refused_before_any_training(root: Path) -> None:
    file = root / "data" / "mini" / "splits.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    done = tiny.run(root, "train", "--jobs", "1")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("benchmark:")]
    assert "sha256 of the split" in line
    assert "run `uv run benchmark data mini`" in line
    assert not list(root.rglob("record.json"))


def test_a_device_that_is_not_there_is_refused_before_any_training(root: Path) -> None:
    done = tiny.run(root, "train", "--jobs", "1", "--device", "cuda")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not list(root.rglob("record.json"))


def test_other_images_than_the_built_ones_are_refused(fresh: Path, tmp_path: Path) -> None:
    task, store = tiny.cell("simclr-resnet-bn-s0").on("0" * 64), tiny.store(tmp_path)
    with pytest.raises(UserError, match=r"^\S+: the images changed since the cell was planned$"):
        run(task, fresh / "data" / "mini", store, determinism.start("cpu"), lambda *_: True)
    assert not store.folder.exists()


def test_the_bytes_of_a_record_do_not_depend_on_the_process(
    trained: tuple[Path, Ended], tmp_path: Path
) -> None:
    root, _ = trained
    task = tiny.cell("simclr-resnet-bn-s0").on(tiny.dataset(root))
    store = tiny.store(tmp_path)
    run(task, root / "data" / "mini", store, determinism.start("cpu"), lambda *_: True)
    record = store.record(task.fingerprint)
    assert record is not None
    published = json.loads(tiny.published(root)["simclr/simclr-resnet-bn-s0.json"])
    assert canonical_json.pretty(record.as_json()) == canonical_json.pretty(published["record"])
