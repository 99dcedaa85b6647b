"""`--set` on the command line: what is planned, refused, trained and published under it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import parser, sweep, train
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.planning import rate_table
from benchmark.planning.cell import Task
from benchmark.results import published, records
from tests.helpers import tiny

BATCH = "--set training.batch_size=16"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder to stand in, with the note of its images but without them."""
    tiny.write_params(tmp_path, tiny.raw())
    note = json.loads(tiny.note(tiny.params()))
    note["splits"]["test"]["per_class"] = {"a": 14, "b": 14}
    canonical_json.write(tmp_path / "data/mini/manifest.json", canonical_json.pretty(note))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    return tmp_path


@pytest.fixture
def trained(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the cells that `train` and `sweep` train, which makes up their accuracy."""
    asked: list[str] = []

    def make_up(
        arguments: Any, found: Params, tasks: Sequence[Task], others: Sequence[Task] = ()
    ) -> Mapping[str, records.Record]:
        store = records.store(root)
        for task in tasks:
            if store.record(task.fingerprint) is None:
                asked.append(task.cell.label)
                result = records.Result(metrics={"pooled_reestimated.knn5": 0.5})
                store.put(records.Record.of(task, {}, "done", result), records.RunLog())
        return store.read(tasks)

    for verb in (train, sweep):
        monkeypatch.setattr(verb, "train_missing", make_up)
    return asked


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """The fingerprint of every planned cell."""
    capsys.readouterr()
    assert parser.main(["plan", "--json", *arguments]) == 0
    entries = json.loads(capsys.readouterr().out)
    return {entry["cell"]: entry["fingerprint"] for entry in entries}


def documents(root: Path) -> dict[str, Any]:
    return {name: json.loads(raw) for name, raw in tiny.published(root).items()}


def call(arguments: str) -> int:
    return parser.main(arguments.split())


# --- plans and refusals


@pytest.mark.parametrize(
    ("given", "path", "value", "changed"),
    [
        ("training.batch_size=16", "training/batch_size", 16, 4),
        ("methods.simclr.options.temperature=0.5", "methods/simclr/options/temperature", 0.5, 2),
        ("backbones.resnet.arguments.stem_stride=2",
         "backbones/resnet/arguments/stem_stride", 2, 4),
        ("schemes.bn={norm: gn, groups: 4}", "schemes/bn", {"norm": "gn", "groups": 4}, 2),
        ("evaluation.knn_temperature=0.1", "evaluation/knn_temperature", 0.1, 5),
        ("title=another", "title", "another", 0),
        ("training.batch_size=32", "training/batch_size", 32, 0),
    ],
)  # fmt: skip
def test_fingerprints_are_those_of_the_edited_file(
    root: Path, capsys: pytest.CaptureFixture[str],
    given: str, path: str, value: Any, changed: int,
) -> None:  # fmt: skip
    before, found = planned(capsys), planned(capsys, "--set", given)
    tiny.write_params(root, tiny.changed(tiny.raw(), path, value))
    assert found == planned(capsys)
    assert sum(found[name] != before[name] for name in before) == changed


def test_the_plan_says_in_one_line_what_was_set(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"plan {BATCH} --set methods.simclr.learning_rate.resnet=1e-1") == 0
    shown = capsys.readouterr()
    line = "overridden: --set methods.simclr.learning_rate.resnet=0.1 --set training.batch_size=16"
    assert shown.err.splitlines() == [line]
    assert "5 cells, 5 to train" in shown.out
    assert call("plan") == 0
    assert capsys.readouterr().err == ""


VERBS = (
    "plan",
    "data",
    "train",
    "sweep",
    "leaderboard",
    "claims",
    "verify",
    "advise",
    "provenance",
)
NEEDED = {
    "advise": ["--method", "simclr", "--backbone", "resnet"],
    "provenance": ["simclr-resnet-bn-s0"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("training.batch_size", "--set training.batch_size: expected KEY=VALUE"),
        (
            "training.batch_size='16'",
            "params.yaml with --set training.batch_size='16': training.batch_size is '16': ",
        ),
    ],
)
def test_every_verb_that_reads_params_refuses_a_wrong_value(
    root: Path, capsys: pytest.CaptureFixture[str], verb: str, given: str, said: str
) -> None:
    line = tiny.refusal(capsys, verb, *NEEDED.get(verb, []), "--set", given)
    assert line.startswith(f"benchmark: {said}")
    assert not (root / ".benchmark").exists()


@pytest.mark.parametrize("verb", ["plan", "train", "sweep"])
def test_numbers_that_do_not_fit_name_what_was_set(
    root: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert tiny.refusal(capsys, verb, "--set", "training.batch_size=161") == (
        "benchmark: params.yaml with --set training.batch_size=161: training: batch_size 161 is "
        "larger than the training split of 160 images"
    )


def test_images_of_the_file_are_refused_for_other_data(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = tiny.refusal(capsys, "train", "--set", "data.seed=3")
    assert "seed is 0, params ask for 3" in line
    assert line.endswith("run `uv run benchmark data mini --set data.seed=3`")


# --- what is published


def test_a_published_record_states_what_was_set_and_its_table_shows_it(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("train") == 0
    assert call("leaderboard") == 0
    folder = root / "results" / "mini"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not any(b"overrid" in content for content in before.values())

    capsys.readouterr()
    assert call(f"train --method simclr {BATCH}") == 0
    assert f"overridden: {BATCH}" in capsys.readouterr().err.splitlines()
    assert {name: found.get("overrides") for name, found in documents(root).items()} == {
        "simclr/simclr-resnet-bn-s0.json": {"training.batch_size": 16},
        "simclr/simclr-resnet-none-plain-s0.json": {"training.batch_size": 16},
        "supervised/supervised-resnet-bn-s0.json": None,
        "supervised/supervised-resnet-none-plain-s0.json": None,
        "raw-pixels/raw-pixels-pixels-none-s0.json": None,
    }
    for raw in tiny.published(root).values():
        entry = json.loads(raw)["record"]
        assert "overrides" not in entry
        assert (entry["cell"]["training"] or {}).get("batch_size") in (None, 16, 32)

    # The file asks for other cells, and the message says how to get at those that are there.
    line = tiny.refusal(capsys, "leaderboard")
    assert (
        "the record of simclr-resnet-bn-s0 is of another configuration than the params ask" in line
    )
    assert f"it was published with `{BATCH}`: repeat that, or run `uv run dvc repro`" in line
    # Those of the other methods do not fit what is set.
    line = tiny.refusal(capsys, "leaderboard", *BATCH.split())
    assert (
        f"supervised-resnet-bn-s0 is of another configuration than the params with `{BATCH}`"
        in line
    )
    assert line.endswith(f"run `uv run benchmark train --experiment leaderboard {BATCH}`")

    assert call(f"train {BATCH}") == 0
    assert call(f"leaderboard {BATCH}") == 0
    table = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    assert table["overrides"] == {"training.batch_size": 16}
    for entry in (entry for row in table["rows"] for entry in row["records"]):
        assert entry["overrides"] == {"training.batch_size": 16}
        assert "overridden" in entry["marks"]
    page = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert "¶ 5 records are **overridden**" in page
    assert f"- 5 records published with `{BATCH}`." in page
    assert f"- This table was written with `{BATCH}`." in page
    assert page.count(" ¶ |") == 5
    with (folder / "leaderboard.csv").open(newline="") as file:
        assert [row["overrides"] for row in csv.DictReader(file)] == [BATCH] * 5

    # Without the argument all is as before, byte for byte, and nothing is trained again.
    trained.clear()
    assert call("train") == 0
    assert call("leaderboard") == 0
    assert trained == []
    assert {path: path.read_bytes() for path in before} == before


def test_a_row_is_marked_until_it_is_published_without_the_argument(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same configuration in the file: the records fit, and no cell is trained again."""
    assert call("train") == 0
    assert call(f"train --method simclr {BATCH} --set title=another") == 0
    tiny.write_params(root, tiny.changed(tiny.raw(), "training/batch_size", 16))
    assert call("train --method supervised") == 0
    assert call("leaderboard") == 0
    folder = root / "results" / "mini"
    table = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    marked = {row["method"] for row in table["rows"] if "overrides" in row["records"][0]}
    assert ("overrides" in table, marked) == (False, {"simclr"})
    page = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert (
        "- 2 records published with `--set 'title=\"another\"' --set training.batch_size=16`."
        in page
    )
    with (folder / "leaderboard.csv").open(newline="") as file:
        stated = {row["method"]: row["overrides"] for row in csv.DictReader(file)}
    assert {method: bool(text) for method, text in stated.items()} == {
        "simclr": True,
        "supervised": False,
        "raw-pixels": False,
    }
    trained.clear()
    assert call("train") == 0
    assert trained == []
    assert not any("overrides" in found for found in documents(root).values())


def test_a_plan_counts_stale_records_by_what_was_set(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(f"train --method simclr {BATCH}") == 0
    capsys.readouterr()
    assert call("plan") == 0
    shown = capsys.readouterr().out
    assert shown.count("  stale") == 2
    assert f"2 stale records published with `{BATCH}`" in shown.splitlines()
    assert call("plan --json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry.get("overrides") for entry in entries if entry["state"] == "stale"] == [
        {"training.batch_size": 16}
    ] * 2
    assert call(f"plan {BATCH}") == 0
    assert "stale" not in capsys.readouterr().out


def test_a_damaged_statement_is_named(root: Path, trained: list[str]) -> None:
    assert call(f"train --method simclr {BATCH}") == 0
    file = root / "results/mini/records/leaderboard/simclr/simclr-resnet-bn-s0.json"
    entry = published.read(file)
    assert entry.overrides == {"training.batch_size": 16}
    assert entry.content == entry.record.checksum
    document = json.loads(file.read_text(encoding="utf-8"))
    canonical_json.write(file, canonical_json.pretty(document | {"overrides": 3}))
    with pytest.raises(published.UserError, match="not a record"):
        published.read(file)


# --- rates


def test_rates_tuned_without_the_argument_do_not_count_and_the_reverse(
    root: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/learning_rates", "tuned")
    tiny.write_params(root, tree)
    own = rate_table.path(root, "mini", "leaderboard")
    assert call("sweep") == 0
    first = own.read_bytes()
    assert b"overrides" not in first
    again = f"`uv run benchmark sweep --experiment leaderboard {BATCH}`"
    line = tiny.refusal(capsys, "train", *BATCH.split())
    assert "no rate for simclr-resnet-bn, and tables tuned without the same --set do not" in line
    assert line.endswith(f"run {again}")
    assert call(f"plan {BATCH}") == 0
    shown = capsys.readouterr().out
    assert shown.count("untuned") == 4
    assert again in shown

    # The table has another name, states what was set, and the file's stays as it is.
    assert call(f"sweep {BATCH}") == 0
    (other,) = [path for path in own.parent.iterdir() if path != own]
    assert other == rate_table.path(root, "mini", "leaderboard", {"training.batch_size": 16})
    assert other.name.startswith("leaderboard@")
    table = rate_table.RateTable.model_validate_json(other.read_bytes())
    assert table.overrides == {"training.batch_size": 16}
    assert own.read_bytes() == first
    assert call(f"train --method simclr {BATCH}") == 0
    # A table that is put in another's place is refused.
    shutil.copy(other, own)
    assert tiny.refusal(capsys, "train").endswith(
        f"leaderboard.json: tuned with {BATCH}, and the command has no --set"
    )
    own.unlink()
    assert "no rate for simclr-resnet-bn: run" in tiny.refusal(capsys, "train")
    own.write_bytes(first)

    # Trials are shared: what is set here decides none of their results.
    trained.clear()
    records.store(root).folder.rename(root / "gone")
    assert call("sweep --set experiments.leaderboard.seeds=[1]") == 0
    assert trained == []


# --- real training


def test_a_cell_trained_under_the_argument_is_verified(tmp_path: Path) -> None:
    """Also when its configuration has been written into the file since: it is the same cell."""
    tree = tiny.raw()
    tree["experiments"]["leaderboard"] |= {"methods": ["simclr"], "schemes": ["bn"]}
    root = tiny.project(tmp_path / "project", tree)
    given = ("--set", "methods.simclr.images_seen=320", *BATCH.split())

    def run(verb: str, *arguments: str, code: int = 0) -> tuple[str, str]:
        done = tiny.run(root, verb, *arguments)
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    run("train", *given, "--jobs", "1")
    (document,) = documents(root).values()
    assert document["record"]["result"]["steps"] == 320 // 16
    assert document["overrides"] == {"methods.simclr.images_seen": 320, "training.batch_size": 16}
    run("leaderboard", *given)
    assert " identical " in run("verify", "simclr-resnet-bn-s0", *given, "--jobs", "1")[0]
    flags = "--set methods.simclr.images_seen=320 --set training.batch_size=16"
    shown, _ = run("provenance", "simclr-resnet-bn-s0", *given)
    assert f"overridden   {flags}" in shown.splitlines()
    shown, _ = run("verify", "simclr-resnet-bn-s0", "--jobs", "1", code=1)
    assert f"first difference: configuration; published with {flags}" in shown
    edited = tiny.changed(tree, "training/batch_size", 16)
    tiny.write_params(root, tiny.changed(edited, "methods/simclr/images_seen", 320))
    assert " identical " in run("verify", "simclr-resnet-bn-s0", "--jobs", "1")[0]
