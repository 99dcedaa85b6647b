"""Cells that are fine-tuned and judged on another track's images, from the params to the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.data.build import build
from benchmark.results import contents
from benchmark.results.records import Record
from tests.helpers import tiny
from tests.planning.test_further import SHA, tree

LABEL = "simclr-resnet-bn-s0"


def asked(sha256: str) -> dict[str, Any]:
    found = tree(labels=[{"share": 0.4, "epochs": 2}])
    found["experiments"] = {"leaderboard": found["experiments"]["leaderboard"]}
    found["experiments"]["leaderboard"] |= {"methods": ["simclr", "raw-pixels"], "schemes": ["bn"]}
    found["evaluation"]["transfer"] = {"other": sha256}
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained project, and the images of a second track, which are in colour."""
    root = tiny.project(tmp_path_factory.mktemp("further"), asked(SHA))
    options = {"path": str(root / "images"), "size": 12, "channels": 3}
    build("other", "folder", options, tiny.COUNTS, 1, root / "data" / "other")
    tiny.write_params(root, asked(checksum(root)))
    done = tiny.run(root, "train", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return root


def checksum(root: Path) -> str:
    text = (root / "data" / "other" / "manifest.json").read_text(encoding="utf-8")
    return str(json.loads(text)["sha256"])


def test_other_images_are_refused_before_any_training(root: Path) -> None:
    said = f"evaluation.transfer: other is {SHA}, and the built images have the checksum"
    tiny.write_params(root, asked(SHA))
    refused = tiny.run(root, "train", "--jobs", "1")
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert said in line
    assert checksum(root) in line
    shown = tiny.run(root, "plan")
    assert (shown.returncode, said in shown.stdout) == (0, True)
    (root / "data" / "other").rename(root / "data" / "away")
    missing = tiny.run(root, "train", "--jobs", "1")
    (root / "data" / "away").rename(root / "data" / "other")
    assert missing.returncode == 2
    assert "uv run benchmark data other" in missing.stderr


def test_records_and_tables_have_what_is_asked_for(root: Path) -> None:
    tiny.write_params(root, asked(checksum(root)))
    record = json.loads(tiny.published(root)[f"simclr/{LABEL}.json"])["record"]
    for text in tiny.published(root).values():
        assert contents.fault(Record.model_validate(json.loads(text)["record"])) is None
    found = record["result"]["metrics"]
    for name in ("finetune", "finetune.labels_0.4"):
        assert 0 < found[f"{name}.accuracy"] <= 1
        assert found[f"{name}.chosen_rate"] in (0.01, 0.1)
    assert {"transfer.other.knn5", "transfer.other.knn20.validation"} <= found.keys()
    assert not list((root / ".benchmark" / "cells").glob("*/finetune"))
    assert tiny.run(root, "leaderboard").returncode == 0
    folder = root / "results" / "mini"
    page = (folder / "leaderboard.md").read_text(encoding="utf-8")
    for title in ("fine-tuned", "fine-tuned, 40 %", "other, kNN", "other, linear"):
        assert f"| {title} |" in page
    assert "**fine-tuned** is the accuracy" in page
    table = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    rows = {row["method"]: row for row in table["rows"]}
    assert rows["simclr"]["finetune"]["mean"] == pytest.approx(found["finetune.accuracy"], abs=1e-6)
    assert rows["simclr"]["transfer_other_linear"]["mean"] == pytest.approx(
        found["transfer.other.linear"], abs=1e-6
    )
    assert rows["raw-pixels"]["finetune"] is None
    assert rows["raw-pixels"]["transfer_other_knn"]["mean"] > 0
    with (folder / "leaderboard.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    assert float(first["finetune_percent"]) == pytest.approx(100 * found["finetune.accuracy"])


def test_the_other_measures_are_those_of_a_plain_cell(root: Path) -> None:
    """The network is pre-trained, measured and kept as without them; it is not trained again."""
    further = json.loads(tiny.published(root)[f"simclr/{LABEL}.json"])["record"]["result"]
    kept = {p.name: p.read_bytes() for p in (root / ".benchmark" / "trained").iterdir()}
    plain = asked(SHA)
    plain["evaluation"] |= {"finetune": {}, "transfer": {}}
    tiny.write_params(root, plain)
    done = tiny.run(root, "train", "--jobs", "1", "--cell", LABEL)
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in (root / ".benchmark" / "trained").iterdir()} == kept
    record = json.loads(Path(done.stdout.splitlines()[0]).read_text(encoding="utf-8"))
    result = record.get("content", record)["result"]
    added = [key for key in further["metrics"] if key.startswith(("finetune", "transfer"))]
    for key in added:
        del further["metrics"][key]
    assert added
    assert result == further
