"""Verification trains published cells again from nothing and says what is not the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import parser
from benchmark.cli.common import named
from benchmark.core import canonical_json, determinism
from benchmark.execution.cell import run
from benchmark.execution.verify import _compare, _Published, _tolerance, sample
from benchmark.planning import plan
from benchmark.planning.cell import Task, fingerprint_of
from benchmark.planning.configuration import ranking_key
from benchmark.results import origins, published
from benchmark.results.records import Store
from tests.helpers import tiny

LABEL = "simclr-resnet-bn-s0"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one published cell, trained in this process."""
    root = tiny.project(tmp_path_factory.mktemp("honest"))
    task = tiny.cell(LABEL).on(tiny.dataset(root))
    record = run(
        task, root / "data" / "mini", tiny.store(root), determinism.start("cpu"), lambda *_: True
    )
    target = published.folder(root, "mini", "leaderboard", "simclr")
    store = tiny.store(root)
    published.publish([task], store.read([task]), store, target)
    origins.publish(root, [task], store.read([task]), store)
    entry = published.read(published.file_of(task.cell, root))
    line = {
        "label": LABEL,
        "sha256": entry.checksum,
        "status": "done",
        "knn_reestimated": record.result.metrics["pooled_reestimated.knn5"],
    }
    publish(root, line)
    return root


def publish(root: Path, *lines: dict[str, Any]) -> None:
    """A table of one row; another seed may give 10 points more or less."""
    pool = {
        "metric": "knn_reestimated",
        "backbone": "resnet",
        "trained": True,
        "sd": 0.1 / 4.5,
        "df": 10,
    }
    record = published.read(
        published.folder(root, "mini", "leaderboard", "simclr") / f"{LABEL}.json"
    ).record
    table = {
        "interval": {"pools": [pool]},
        "environments": [record.environment],
        "rows": [{"records": list(lines), "environments": [0]}],
    }
    text = canonical_json.pretty(table)
    canonical_json.write(root / "results" / "mini" / "leaderboard.json", text)


def line(root: Path) -> dict[str, Any]:
    file = root / "results" / "mini" / "leaderboard.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["rows"][0]["records"][0])


@pytest.fixture
def root(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(honest, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains without workers, which take seconds to start."""

    def train(tasks: Sequence[Task], store: Store, data: Path, *_: object, **__: object) -> None:
        for task in tasks:
            run(task, data, store, determinism.start("cpu"), lambda *_: True)

    monkeypatch.setattr("benchmark.execution.verify.train_missing", train)


def test_an_honest_table_is_identical(root: Path) -> None:
    """Although nothing of the store is used."""
    done = tiny.run(root, "verify", LABEL, "--exact", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [LABEL, "identical", line(root)["sha256"][:12]]


Tamper = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    ("tamper", "verdict", "code", "exact_code"),
    [
        (
            lambda r: {"sha256": "0" * 64, "knn_reestimated": r["knn_reestimated"] - 0.2},
            "different",
            1,
            1,
        ),
        (lambda r: {"sha256": "0" * 64, "status": "diverged"}, "different", 1, 1),
        (lambda r: {"sha256": "0" * 64, "knn_reestimated": None}, "different", 1, 1),
        (
            lambda r: {"sha256": "0" * 64, "knn_reestimated": r["knn_reestimated"] - 0.02},
            "within tolerance",
            0,
            1,
        ),
        # The checksum says that the record is this one, but the table shows another number.
        (lambda r: {"knn_reestimated": r["knn_reestimated"] + 0.3}, "different", 1, 1),
    ],
    ids=["accuracy", "status", "no accuracy", "close", "accuracy under an honest checksum"],
)
def test_a_table_that_was_tampered_with_is_found_out(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tamper: Tamper,
    verdict: str,
    code: int,
    exact_code: int,
) -> None:
    in_this_process(monkeypatch)
    # Another kind of machine made it; on the same kind nothing is tolerated.
    monkeypatch.setattr("benchmark.execution.verify.processor", lambda: ("another vendor", None))
    publish(root, line(root) | tamper(line(root)))
    assert parser.main(["verify", LABEL]) == code
    shown = capsys.readouterr()
    assert verdict in shown.out
    assert (shown.err == "") == (code == 0)
    assert parser.main(["verify", LABEL, "--exact"]) == exact_code
    assert f"benchmark: 1 of 1 cells differ: {LABEL}" in capsys.readouterr().err


def test_the_tolerance_is_for_another_kind_of_machine(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_this_process(monkeypatch)
    publish(
        root,
        line(root) | {"sha256": "0" * 64, "knn_reestimated": line(root)["knn_reestimated"] - 0.02},
    )
    assert parser.main(["verify", LABEL]) == 1
    assert "on the same kind of machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("math", "verdict"), [("deterministic", "different"), ("fast", "within tolerance")]
)
def test_fast_arithmetic_promises_no_bits(math: str, verdict: str) -> None:
    tree = tiny.changed(tiny.raw(), "training/math", math)
    cell = tiny.cell(LABEL, tree=tree)
    key = ranking_key(cell.config.evaluation.knn_k)
    entry = tiny.record(
        cell, {"metrics": {key: 0.50}, "curves": {}}, environment={"device": "a GPU"}
    )
    claimed = _Published(
        sha256="0" * 64, status="done", knn=0.51, environment=entry.environment, tolerance=0.02,
        record=None, origin=None, overrides={},
    )  # fmt: skip
    assert _compare(cell, entry, {}, claimed).verdict == verdict


def test_the_tolerance_is_what_another_seed_may_make_of_it() -> None:
    pool = {
        "metric": "knn_reestimated",
        "backbone": "resnet",
        "trained": True,
        "sd": 0.02,
        "df": 10,
    }
    table = {"interval": {"pools": [pool]}}
    cell = tiny.cell(LABEL)
    # Two independent seeds differ by N(0, 2 s²); t with 10 degrees of freedom: 3.169 at 99.5 %.
    assert _tolerance(table, cell) == pytest.approx(3.169 * 0.02 * 2**0.5, abs=1e-4)
    assert _tolerance({"interval": {"pools": [pool | {"trained": False}]}}, cell) == 0.005


def resha(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Publishes a record that was changed, consistently: the table and provenance know no other."""
    file = published.folder(root, "mini", "leaderboard", "simclr") / f"{LABEL}.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    change(document["record"])
    text = canonical_json.pretty(document)
    file.write_text(text, encoding="utf-8")
    knn = document["record"]["result"]["metrics"]["pooled_reestimated.knn5"]
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    publish(root, line(root) | {"sha256": sha256, "knn_reestimated": knn})


def other_trace(root: Path, **stages: str) -> None:
    """Provenance of a training that began otherwise."""
    file = origins.folder(root, "mini", "leaderboard") / "simclr.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    found["records"][LABEL]["trace"] |= stages
    file.write_text(canonical_json.pretty(found), encoding="utf-8")


def images(record: dict[str, Any]) -> None:
    record["dataset"] = "1" * 64
    record["fingerprint"] = fingerprint_of(record["cell"], record["components"], record["dataset"])


def curve(record: dict[str, Any]) -> None:
    record["result"]["curves"]["loss"][1] += 1e-6


def metric(record: dict[str, Any]) -> None:
    record["result"]["metrics"]["pooled.linear"] += 1e-3


@pytest.mark.parametrize(
    ("change", "stages", "said"),
    [
        (images, {}, "first difference: data"),
        (curve, {"weights": "x"}, "first difference: weights"),
        (curve, {"views": "x"}, "first difference: views"),
        (curve, {"first_step": "x"}, "first difference: first step"),
        (curve, {}, "first difference: loss between steps 1 and 2"),
        (metric, {}, "first difference: metric pooled.linear"),
    ],
    ids=["data", "initial weights", "views", "first step", "curve", "metrics"],
)
def test_a_difference_is_traced_to_where_it_begins(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], None],
    stages: dict[str, str],
    said: str,
) -> None:
    in_this_process(monkeypatch)
    resha(root, change)
    other_trace(root, **stages)
    assert parser.main(["verify", LABEL]) == 1
    assert said in capsys.readouterr().out


def test_a_verification_finds_nothing_that_an_earlier_one_left(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a record nor a finished training, in the scratch folder's surroundings either."""
    scratch = root / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    in_this_process(monkeypatch)
    assert parser.main(["verify", LABEL]) == 0
    assert list(scratch.iterdir()) == []


def test_a_row_is_all_its_seeds(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/seeds", [0, 1])
    cells = plan.cells(tiny.params(tree), "leaderboard", None)
    labels = [cell.label for cell in named(cells, ["simclr-resnet-bn"])]
    assert labels == ["simclr-resnet-bn-s0", "simclr-resnet-bn-s1"]
    assert named(cells, ["simclr-resnet-bn-s1", "mini/leaderboard/simclr-resnet-bn"]) == [
        cells[[cell.label for cell in cells].index("simclr-resnet-bn-s1")],
        cells[[cell.label for cell in cells].index("simclr-resnet-bn-s0")],
    ]


def test_a_cell_that_is_not_published_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = tiny.refusal(capsys, "verify", "raw-pixels-pixels-none-s0")
    assert "does not list raw-pixels-pixels-none-s0" in said


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rows": [{}]}'])
def test_a_damaged_table_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (root / "results" / "mini" / "leaderboard.json").write_text(text)
    assert "no published leaderboard" in tiny.refusal(capsys, "verify", LABEL)


def test_a_sample_depends_on_its_draw_alone_and_spreads_over_rows() -> None:
    tree = tiny.real()
    tree["experiments"]["leaderboard"] |= {"learning_rates": "default", "seeds": [0, 1, 2]}
    cells = plan.cells(tiny.params(tree), "leaderboard", None)
    rows = {(c.method, c.backbone, c.scheme) for c in cells}
    chosen = sample(cells, 5, "0")
    assert chosen == sample(list(reversed(cells)), 5, "0")
    assert sample(cells, 3, "0") == chosen[:3]
    assert sample(cells, 5, "1") != chosen
    many = sample(cells, len(rows), "0")
    assert {(c.method, c.backbone, c.scheme) for c in many} == rows
    assert len({c.seed for c in many}) == 3
    everything = sample(cells, 10_000, "0")
    assert sorted(c.label for c in everything) == sorted(c.label for c in cells)
