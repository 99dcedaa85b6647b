"""The leaderboard says what its records say, hides no failure, and comes out the same each time."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy import stats

from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning import rate_table
from benchmark.planning.cell import Cell
from benchmark.report.leaderboard import write
from benchmark.results import origins, published
from tests.helpers import tiny
from tests.helpers.made_up import (
    ENVIRONMENT,
    GRID,
    MAKER,
    PROJECT,
    Change,
    fail,
    params_of,
    publish,
    rates,
)


def written(root: Path, params: Params, change: Change | None = None) -> dict[str, Any]:
    """The JSON file of a project with made-up records."""
    publish(root, params, change)
    write.write(root, params, "leaderboard")
    return dict(json.loads((root / "results/mini/leaderboard.json").read_text()))


def row_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = (
        row
        for row in document["rows"]
        if f"{row['method']}-{row['backbone']}-{row['scheme']}" == name
    )
    return dict(row)


def metric(root: Path, label: str, key: str = "pooled_reestimated.knn20") -> float:
    (file,) = (root / "results/mini/records").rglob(f"{label}.json")
    return float(json.loads(file.read_text())["record"]["result"]["metrics"][key])


def failing(*labels: str, status: str = "diverged") -> Change:
    def change(cell: Cell, entry: dict[str, Any]) -> None:
        if cell.label in labels:
            fail(entry, status)

    return change


def test_every_row_and_key_of_the_documented_schema(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    assert set(document) == {
        "schema", "track", "title", "experiment", "dataset", "knn_k", "interval",
        "environments", "rows",
    }  # fmt: skip
    assert len(document["rows"]) == 6 * 2 * 3 + 1
    for row in document["rows"]:
        assert set(row) == {
            "method", "backbone", "scheme", "control", "rank", "best_scheme", "seeds", "status",
            "statuses", "complete", "knn", "knn_reestimated", "knn200", "linear", "class_token",
            "learning_rate", "linear_penalty_at_edge", "embedding_spread", "relative_update",
            "cost", "environments", "records", "learnt", "tied_for_best",
        }  # fmt: skip
        assert row["status"] == "done"
        assert row["control"] == (row["method"] in ("raw-pixels", "untrained", "supervised"))
        assert (row["rank"] is None) == row["control"]
        assert (row["class_token"] is not None) == (row["backbone"] == "vit")
        for name in ("knn", "knn_reestimated", "knn200", "linear"):
            assert set(row[name]) == {"mean", "low", "high", "sd", "n"}
            assert 0 <= row[name]["low"] <= row[name]["mean"] <= row[name]["high"] <= 1
    documented = (PROJECT / "docs/leaderboard-json.md").read_text()
    for key in (*document, *document["rows"][0], "mean", "low", "high", "sd", "tuned", "at_edge"):
        assert f"`{key}`" in documented


def test_few_labels_are_columns_where_the_track_asks_for_them(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    asked = params_of(tiny.changed(raw, "evaluation/few_labels", [0.01, 0.1]))
    document = written(tmp_path, asked)
    row = row_of(document, "simclr-vit-bn")
    names = [f"few_labels_{share}_{kind}" for share in (0.01, 0.1) for kind in ("linear", "knn")]
    for name in names:
        part, _, kind = name.rpartition("_")
        key = f"pooled_reestimated.{part}.{'knn20' if kind == 'knn' else kind}"
        own = [metric(tmp_path, f"simclr-vit-bn-s{seed}", key) for seed in (0, 1)]
        assert row[name]["mean"] == pytest.approx(np.mean(own), abs=1e-6)
        assert row[name]["low"] < row[name]["mean"] < row[name]["high"]
    folder = tmp_path / "results/mini"
    (line, *_) = csv.DictReader((folder / "leaderboard.csv").read_text().splitlines())
    assert [key for key in line if key.startswith("few_labels") and key.endswith("_percent")] == [
        f"{name}_percent" for name in names
    ]
    text = (folder / "leaderboard.md").read_text()
    assert text.count("| linear, 1 % | kNN, 1 % | linear, 10 % | kNN, 10 % |") == 2
    assert text.count("- **linear, … %** and **kNN, … %** are") == 1
    heads = next(line for line in text.splitlines() if "kNN, 10 %" in line).split(" | ")
    cells = next(line for line in text.splitlines() if "| simclr |" in line).split(" | ")
    marked = {head for head, cell in zip(heads, cells, strict=True) if "§" in cell}
    assert marked == {"linear, 1 %", "linear, 10 %"}


def test_the_spread_of_embeddings_is_scaled_by_their_width(tmp_path: Path, params: Params) -> None:
    def collapsed(cell: Cell, entry: dict[str, Any]) -> None:
        if cell.method == "simclr" and cell.scheme == "ln":
            entry["result"]["diagnostics"]["sections"]["projector"]["embedding_std"] = (
                0.25 * cell.seed
            )
        if cell.method == "mae" and cell.scheme == "ln":
            entry["result"]["diagnostics"]["sections"]["backbone"]["embedding_std"] = None

    document = written(tmp_path, params, collapsed)
    assert row_of(document, "simclr-vit-ln")["embedding_spread"]["projector"] == 1.0
    assert row_of(document, "mae-vit-ln")["embedding_spread"] == {"backbone": None}
    assert set(row_of(document, "moco-vit-ln")["embedding_spread"]) == {"backbone", "projector"}
    text = (tmp_path / "results" / "mini" / "leaderboard.md").read_text()
    (line,) = [line for line in text.splitlines() if "| simclr | ln |" in line][:1]
    assert " · 1.00 |" in line


def test_numbers_against_an_independent_calculation(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    squares, df = 0.0, 0
    for method in ("rotation", "simclr", "moco", "mae", "supervised"):
        for scheme in ("bn", "ln", "gn"):
            values = [metric(tmp_path, f"{method}-vit-{scheme}-s{seed}") for seed in (0, 1)]
            squares, df = squares + float(np.var(values)) * 2, df + 1
    own = [metric(tmp_path, f"moco-vit-gn-s{seed}") for seed in (0, 1)]
    half = stats.t.ppf(0.975, df) * np.sqrt(squares / df) / np.sqrt(2)
    found = row_of(document, "moco-vit-gn")["knn_reestimated"]
    expected = [np.mean(own), np.mean(own) - half, np.mean(own) + half, np.std(own, ddof=1)]
    got = [found["mean"], found["low"], found["high"], found["sd"]]
    assert got == pytest.approx(expected, abs=1e-6)


def test_untrained_rows_have_their_own_spread_and_pixels_none(
    tmp_path: Path, params: Params
) -> None:
    document = written(tmp_path, params)
    pools = {
        (pool["metric"], pool["backbone"], pool["trained"]): pool
        for pool in document["interval"]["pools"]
    }
    assert pools["knn_reestimated", "resnet", True]["df"] == 15
    assert pools["knn_reestimated", "resnet", False]["df"] == 3
    assert (
        pools["knn_reestimated", "resnet", True]["sd"]
        != pools["knn_reestimated", "resnet", False]["sd"]
    )
    pixels = row_of(document, "raw-pixels-pixels-none")["knn"]
    assert pixels["low"] == pixels["mean"] == pixels["high"]


def test_ranks_follow_the_mean_within_a_backbone(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    for backbone in ("resnet", "vit"):
        rows = [
            row for row in document["rows"] if row["backbone"] == backbone and not row["control"]
        ]
        assert [row["rank"] for row in rows] == list(range(1, 13))
        means = [row["knn_reestimated"]["mean"] for row in rows]
        assert means == sorted(means, reverse=True)
        for method in {row["method"] for row in rows}:
            own = [row for row in rows if row["method"] == method]
            assert [row["best_scheme"] for row in own] == [True, False, False]


def at(**levels: float) -> Change:
    """Makes every seed of a row, called METHOD_BACKBONE_SCHEME, come to one accuracy."""

    def change(cell: Cell, entry: dict[str, Any]) -> None:
        name = cell.label.rsplit("-s", 1)[0].replace("-", "_")
        if name in levels:
            metrics = entry["result"]["metrics"]
            for key in metrics:
                if key.endswith(".knn20"):
                    metrics[key] = levels[name] + 0.001 * cell.seed

    return change


@pytest.mark.parametrize(
    ("untrained", "pixels", "least"), [(0.4, 0.5, 0.52), (0.55, 0.5, 0.5705), (0.4, 0.1, 0.45)]
)
def test_what_is_not_above_both_controls_has_no_rank_and_no_bold(
    tmp_path: Path, params: Params, untrained: float, pixels: float, least: float
) -> None:
    levels = {f"untrained_resnet_{scheme}": 0.3 for scheme in ("ln", "gn")}
    levels |= {"untrained_resnet_bn": untrained, "raw_pixels_pixels_none": pixels}
    below, above = least - 0.002, least + 0.002
    levels |= {f"moco_resnet_{scheme}": below for scheme in ("bn", "ln", "gn")}
    levels |= {"mae_resnet_bn": above, "mae_resnet_ln": below, "mae_resnet_gn": below - 0.1}
    if least == 0.45:
        levels |= {f"untrained_resnet_{scheme}": least - 0.0205 for scheme in ("ln", "gn", "bn")}
    document = written(tmp_path, params, at(**levels))
    for scheme in ("bn", "ln", "gn"):
        row = row_of(document, f"moco-resnet-{scheme}")
        assert (row["learnt"], row["rank"], row["best_scheme"]) == (False, None, False)
        assert not row["tied_for_best"]
    row = row_of(document, "mae-resnet-bn")
    assert (row["learnt"], row["best_scheme"], row["tied_for_best"]) == (True, True, True)
    assert row["rank"] is not None
    # Within the interval of the best, and yet it has learnt nothing.
    assert not row_of(document, "mae-resnet-ln")["tied_for_best"]
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    resnet = text.split("\n## ")[1]
    assert all("**" not in line for line in resnet.splitlines() if "| moco |" in line)
    assert resnet.count(" ∅ |") == 5


def test_without_a_control_nothing_is_said_of_learning(tmp_path: Path, raw: dict[str, Any]) -> None:
    document = written(tmp_path, params_of(raw, methods=["simclr", "untrained"]))
    row = row_of(document, "simclr-resnet-bn")
    assert row["learnt"] is None
    assert row["rank"] is not None


def test_schemes_that_are_not_told_apart_from_the_best_are_bold_too(
    tmp_path: Path, params: Params
) -> None:
    levels = {"simclr_vit_bn": 0.70, "simclr_vit_ln": 0.6999, "simclr_vit_gn": 0.6}
    document = written(tmp_path, params, at(**levels))
    found = {
        scheme: (row["best_scheme"], row["tied_for_best"])
        for scheme in ("bn", "ln", "gn")
        for row in [row_of(document, f"simclr-vit-{scheme}")]
    }
    assert found == {"bn": (True, True), "ln": (False, True), "gn": (False, False)}


def test_the_relative_update_is_the_mean_over_seeds(tmp_path: Path, params: Params) -> None:
    def change(cell: Cell, entry: dict[str, Any]) -> None:
        if cell.label.startswith("moco-vit-ln"):
            updates = {"backbone": 0.001 * (1 + cell.seed), "projector": None}
            entry["result"]["diagnostics"]["stability"]["relative_update"] = updates

    row = row_of(written(tmp_path, params, change), "moco-vit-ln")
    assert row["relative_update"] == {"backbone": 0.0015, "projector": None}
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    assert any(" | 0.15 · — | " in line for line in text.splitlines() if "| moco |" in line)


def test_a_failed_row_is_last_counted_and_not_pooled(tmp_path: Path, params: Params) -> None:
    whole = written(tmp_path / "whole", params)
    best = next(row for row in whole["rows"] if row["rank"] == 1 and row["backbone"] == "resnet")
    name = f"{best['method']}-resnet-{best['scheme']}"
    lost = "mae-resnet-ln"
    change = failing(f"{name}-s1", f"{lost}-s0", f"{lost}-s1")
    document = written(tmp_path / "failed", params, change)

    row = row_of(document, name)
    assert row["rank"] == 11  # ahead only of the row without any accuracy
    assert (row["status"], row["statuses"]) == ("diverged", {"diverged": 1, "done": 1})
    found = row["knn_reestimated"]
    assert found["mean"] == pytest.approx(metric(tmp_path / "failed", f"{name}-s0"), abs=1e-6)
    assert (found["n"], found["sd"]) == (1, None)
    assert not row["complete"]
    assert not row["best_scheme"]
    assert [entry["status"] for entry in row["records"]] == ["done", "diverged"]

    row = row_of(document, lost)
    assert (row["rank"], row["learnt"]) == (None, False)
    assert row["knn"] is row["linear"] is row["knn_reestimated"] is None
    assert row["cost"]["tflop"] is None

    (pool,) = (
        pool
        for pool in document["interval"]["pools"]
        if (pool["metric"], pool["backbone"], pool["trained"])
        == ("knn_reestimated", "resnet", True)
    )
    assert pool["df"] == 13
    text = (tmp_path / "failed/results/mini/leaderboard.md").read_text()
    assert "| 1 done, 1 diverged |" in text
    assert "| 2 diverged ∅ |" in text


def test_out_of_memory_without_a_size_is_a_row_too(tmp_path: Path, params: Params) -> None:
    def change(cell: Cell, entry: dict[str, Any]) -> None:
        if cell.label.startswith("simclr-vit-bn"):
            entry["status"] = "out-of-memory"
            entry["result"] = {"metrics": {}, "curves": {}, "cause": "out of memory"}

    row = row_of(written(tmp_path, params, change), "simclr-vit-bn")
    assert row["status"] == "out-of-memory"
    assert row["cost"] == {"parameters": None, "images": row["cost"]["images"], "tflop": None}


def test_embeddings_that_are_not_finite_have_no_accuracy(tmp_path: Path, params: Params) -> None:
    def change(cell: Cell, entry: dict[str, Any]) -> None:
        if cell.label.startswith("simclr-vit-bn"):
            keys = entry["result"]["metrics"]
            entry["result"]["metrics"] = {key: None for key in keys if key.endswith(("20", "200"))}

    row = row_of(written(tmp_path, params, change), "simclr-vit-bn")
    assert (row["status"], row["complete"], row["knn"], row["rank"]) == ("done", False, None, None)
    assert row["learnt"] is False


@pytest.mark.parametrize(("images", "shown"), [(199, False), (200, True)])
def test_more_neighbours_than_training_images_have_no_accuracy(
    tmp_path: Path, raw: dict[str, Any], images: int, shown: bool
) -> None:
    """kNN takes all the images then, so the column would be named after a number it did not use."""
    raw = tiny.changed(raw, "data/splits/train", images)
    raw["data"]["splits"]["unlabelled"] = 50  # not among the neighbours
    raw = tiny.changed(raw, "evaluation/precise_bn_batch_size", 100)
    written(tmp_path, params_of(raw, methods=["rotation"], learning_rates="default"))
    text = (tmp_path / "results/mini/leaderboard.md").read_text(encoding="utf-8")
    cells = [line.split(" | ") for line in text.splitlines() if "| rotation |" in line]
    assert len(cells) == 6
    assert all((row[5] != "—") == shown for row in cells)
    assert all("—" not in row[3:5] for row in cells)
    assert ("it is — because there are only 199 training images" in text) != shown


def test_a_share_of_the_images_says_nothing_of_their_number(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    raw = tiny.changed(raw, "data/splits", {"train": 0.7, "validation": 0.15, "test": 0.15})
    written(tmp_path, params_of(raw, methods=["rotation"], learning_rates="default"))
    text = (tmp_path / "results/mini/leaderboard.md").read_text(encoding="utf-8")
    assert "because there are only" not in text


def test_everything_failed(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params, lambda cell, entry: fail(entry, "diverged"))
    assert all(row["knn"] is None for row in document["rows"])


def test_a_single_seed_has_no_interval(tmp_path: Path, raw: dict[str, Any]) -> None:
    document = written(tmp_path, params_of(raw, seeds=[0]))
    found = row_of(document, "mae-vit-ln")["knn"]
    assert (found["low"], found["high"], found["sd"]) == (None, None, None)


def test_rates_and_flags(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    row = row_of(document, "mae-resnet-bn")
    default = params.methods["mae"].learning_rate["resnet"]  # type: ignore[union-attr]  # it is trained
    assert row["learning_rate"]["default"]["learning_rate"] == default
    assert row["learning_rate"]["tuned"]["learning_rate"] == pytest.approx(
        default * 3.162, rel=1e-2
    )
    assert row["learning_rate"]["tuned"]["validation"] == 0.71
    assert row["learning_rate"]["at_edge"]
    assert not row_of(document, "moco-resnet-bn")["learning_rate"]["at_edge"]
    assert row_of(document, "rotation-resnet-bn")["linear_penalty_at_edge"]
    assert row_of(document, "untrained-resnet-bn")["learning_rate"] is None
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    assert all("(val. 71.0) ‡ |" in line for line in text.splitlines() if "| mae |" in line)
    assert all(" § |" in line for line in text.splitlines() if "| rotation |" in line)


def test_seeds_of_the_sweep_are_stated_if_they_are_not_the_tracks(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    for seeds in (None, [100, 101, 102], [100]):
        own = {} if seeds is None else {"sweep_seeds": seeds}
        document = written(tmp_path, params_of(raw, seeds=[0], **own))
        page = (tmp_path / "results/mini/leaderboard.md").read_text(encoding="utf-8")
        other = seeds == [100]
        assert document.get("sweep_seeds") == ([100] if other else None)
        assert ("other seeds than the track's sweep: 100." in page) == other


def test_an_experiment_at_the_recipes_rates(tmp_path: Path, raw: dict[str, Any]) -> None:
    grid = {**GRID, "learning_rates": "default", "methods": ["moco"]}
    params = params_of({**raw, "experiments": {**raw["experiments"], "other": grid}})
    publish(tmp_path, params)
    source = published.folder(tmp_path, "mini", "leaderboard", "moco")
    with pytest.raises(UserError, match="no record of moco-resnet-bn-s0 and 11 more"):
        write.write(tmp_path, params, "other")
    # The same names, but trained at the tuned rates: not the cells this experiment asks for.
    target = published.folder(tmp_path, "mini", "other", "moco")
    target.parent.mkdir(parents=True)
    source.rename(target)
    for file in target.iterdir():
        document = json.loads(file.read_text(encoding="utf-8"))
        canonical_json.write(file, canonical_json.pretty({**document, "experiment": "other"}))
    with pytest.raises(UserError, match="moco-resnet-bn-s0 is of another configuration"):
        write.write(tmp_path, params, "other")


def test_cost(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    images = params.methods["moco"].images_seen  # type: ignore[union-attr]  # it is trained
    assert row_of(document, "moco-vit-gn")["cost"] == {
        "parameters": 123456, "images": images, "tflop": 1.25,
    }  # fmt: skip
    assert row_of(document, "untrained-vit-gn")["cost"]["images"] == 0


def test_a_missing_record_is_named_with_what_to_run(tmp_path: Path, params: Params) -> None:
    publish(tmp_path, params)
    (published.folder(tmp_path, "mini", "leaderboard", "moco") / "moco-vit-ln-s1.json").unlink()
    with pytest.raises(UserError, match=r"no record of moco-vit-ln-s1: run `uv run dvc repro`"):
        write.write(tmp_path, params, "leaderboard")
    assert not (tmp_path / "results/mini/leaderboard.json").exists()


def test_no_table_is_made_from_a_part_of_the_methods(tmp_path: Path, params: Params) -> None:
    """Whole methods are published and tuned one by one, and its ranks would change with the rest."""
    publish(tmp_path, params)
    shutil.rmtree(published.folder(tmp_path, "mini", "leaderboard", "moco"))
    with pytest.raises(UserError, match="no record of moco-resnet-bn-s0 and 11 more"):
        write.write(tmp_path, params, "leaderboard")
    table = [row for row in rates(params) if row.method != "moco"]
    path = rate_table.path(tmp_path, "mini", "leaderboard")
    rate_table.write(path, params, "leaderboard", table)
    with pytest.raises(UserError, match=r"leaderboard\.json has no rate for moco-resnet-bn"):
        write.write(tmp_path, params, "leaderboard")
    assert not (tmp_path / "results/mini/leaderboard.json").exists()


def test_other_images_are_refused(tmp_path: Path, params: Params) -> None:
    def change(cell: Cell, entry: dict[str, Any]) -> None:
        if cell.label == "moco-vit-ln-s1":
            entry |= {"dataset": "others", "fingerprint": cell.on("others").fingerprint}

    publish(tmp_path, params, change)
    with pytest.raises(UserError, match="mixes 2 versions of the images"):
        write.write(tmp_path, params, "leaderboard")


def test_checksums_are_those_of_the_files(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    for row in document["rows"]:
        assert len(row["records"]) == len(row["seeds"])
        for entry in row["records"]:
            (file,) = (tmp_path / "results/mini/records").rglob(f"{entry['label']}.json")
            assert entry["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_record_of_doubtful_provenance_marks_its_row(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    assert all(entry["marks"] == [] for row in document["rows"] for entry in row["records"])
    entry = row_of(document, "moco-vit-ln")["records"][0]
    assert entry["provenance"]["commit"] == MAKER.commit
    assert entry["provenance"]["image"] is None
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    assert "¶" not in text
    count = sum(len(row["records"]) for row in document["rows"])
    assert (
        f"{count} records: commit `c0ffeec0ffee`, uv.lock `10c410c410c4`, no image, a CPU." in text
    )

    file = origins.folder(tmp_path, "mini", "leaderboard") / "moco.json"
    dirty, unknown, *rest = origins.read_one(file)
    dirty = dirty.model_copy(update={"program": MAKER.model_copy(update={"dirty": True})})
    unknown = unknown.model_copy(update={"record": "of something else"})
    origins.write(file, [dirty, unknown, *rest[:-1]])
    write.write(tmp_path, params, "leaderboard")
    document = json.loads((tmp_path / "results/mini/leaderboard.json").read_text())
    found = {entry["label"]: entry["marks"] for row in document["rows"] for entry in row["records"]}
    assert {label: marks for label, marks in found.items() if marks} == {
        dirty.label: ["dirty"],
        unknown.label: ["unrecorded"],
        rest[-1].label: ["unrecorded"],
    }
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    assert text.count("2 done ¶ |") == 2
    assert "¶ 1 record is **dirty**" in text
    assert "¶ 2 records are **unrecorded**" in text


def test_mixed_environments_are_listed_and_marked(tmp_path: Path, params: Params) -> None:
    def change(cell: Cell, entry: dict[str, Any]) -> None:
        if cell.label == "moco-vit-ln-s1":
            entry["environment"] = {**ENVIRONMENT, "device": "NVIDIA | H200"}

    document = written(tmp_path, params, change)
    assert len(document["environments"]) == 2
    assert row_of(document, "moco-vit-ln")["environments"] == [0, 1]
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    assert text.count("| 2 done, env. A B |") == 1
    assert text.count("| 2 done, env. A |") == 35
    assert "- B: device NVIDIA \\| H200, " in text


def test_one_environment_marks_no_row(tmp_path: Path, params: Params) -> None:
    written(tmp_path, params)
    assert "env." not in (tmp_path / "results/mini/leaderboard.md").read_text()


def test_controls_stand_in_every_table(tmp_path: Path, params: Params) -> None:
    written(tmp_path, params)
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    for backbone in text.split("\n## ")[1:3]:
        methods = [line.split(" | ")[1] for line in backbone.splitlines() if line.startswith("| ")]
        assert methods[-7:] == ["supervised"] * 3 + ["untrained"] * 3 + ["raw-pixels"]
    assert "class token |" not in text.split("\n## ")[1]
    assert "class token |" in text.split("\n## ")[2]


def test_hostile_scheme_names_stay_in_their_cell(tmp_path: Path, raw: dict[str, Any]) -> None:
    name = '<b>x|$y$, "z"\n'
    # Params refuse such a name; the tables do not rely on it.
    params = params_of(raw, methods=["moco", "untrained"], schemes=["ln", "bn"])
    grid = params.experiments["leaderboard"].model_copy(update={"schemes": ("ln", name)})
    schemes = {**params.schemes, name: params.schemes["bn"]}
    params = params.model_copy(update={"schemes": schemes, "experiments": {"leaderboard": grid}})
    document = written(tmp_path, params)
    assert {row["scheme"] for row in document["rows"]} == {"ln", name}
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len([line for line in lines if "&lt;b&gt;x\\|\\$y\\$" in line]) == 4
    assert "<b>" not in text
    assert "lacks these controls: supervised, raw-pixels" in text
    with (tmp_path / "results/mini/leaderboard.csv").open(newline="") as file:
        assert {row["scheme"] for row in csv.DictReader(file)} == {"ln", name}


def test_a_control_under_another_name_is_a_control(tmp_path: Path, raw: dict[str, Any]) -> None:
    methods = {
        **raw["methods"],
        "sup": {"extends": "supervised"},
        "fresh": {"extends": "untrained"},
    }
    params = params_of({**raw, "methods": methods}, methods=["simclr", "sup", "fresh"])
    document = written(tmp_path, params)
    for row in document["rows"]:
        assert row["control"] == (row["method"] != "simclr")
        assert (row["rank"] is None) == row["control"]
    text = (tmp_path / "results/mini/leaderboard.md").read_text()
    assert "lacks these controls: raw-pixels" in text


def test_the_very_same_trainings_are_pooled_once(tmp_path: Path, raw: dict[str, Any]) -> None:
    """Supervised training has no heads, so two schemes that differ in them are one."""
    schemes = {**raw["schemes"], "same": {"backbone": {"norm": "bn"}, "heads": {"norm": "ln"}}}
    degrees = []
    for number, names in enumerate((["bn", "ln"], ["bn", "ln", "same"])):
        root = tmp_path / str(number)
        params = params_of({**raw, "schemes": schemes}, methods=["supervised"], schemes=names)
        (pool,) = [
            pool
            for pool in written(root, params)["interval"]["pools"]
            if (pool["metric"], pool["backbone"]) == ("knn_reestimated", "resnet")
        ]
        degrees.append(pool["df"])
    assert degrees == [2, 2]


def test_a_table_of_raw_pixels_alone(tmp_path: Path, raw: dict[str, Any]) -> None:
    params = params_of(raw, methods=["raw-pixels"])
    assert len(written(tmp_path, params)["rows"]) == 1


def test_csv_has_the_numbers_of_the_json(tmp_path: Path, params: Params) -> None:
    document = written(tmp_path, params)
    with (tmp_path / "results/mini/leaderboard.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(document["rows"])
    for line, row in zip(lines, document["rows"], strict=True):
        assert (line["method"], line["scheme"]) == (row["method"], row["scheme"])
        assert float(line["knn_percent"]) == pytest.approx(100 * row["knn"]["mean"], abs=1e-4)
        assert line["rank"] == ("" if row["rank"] is None else str(row["rank"]))


def test_the_figures_letters_come_with_matplotlib() -> None:
    # Outlines of another copy of the font, the system's, need not be the same.
    import matplotlib
    from matplotlib import font_manager

    for weight in ("normal", "bold"):
        wanted = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
        found = Path(font_manager.findfont(wanted))
        assert found.is_relative_to(matplotlib.get_data_path())


PROGRAM = """
import sys
from pathlib import Path
from benchmark.config import params
from benchmark.report.leaderboard.write import write
assert not {"torch", "matplotlib", "scipy"} & set(sys.modules), "imported early"
root = Path(sys.argv[1])
write(root, params.read(Path(sys.argv[2])), "leaderboard")
assert "torch" not in sys.modules
"""


def test_two_processes_write_the_same_bytes_without_torch(
    tmp_path: Path, raw: dict[str, Any], params: Params
) -> None:
    found = []
    given = tmp_path / "params.yaml"
    with given.open("w", encoding="utf-8") as file:
        experiments = raw["experiments"] | {"leaderboard": GRID}
        YAML(typ="safe", pure=True).dump(raw | {"experiments": experiments}, file)
    for seed in ("1", "2"):
        root = tmp_path / seed
        publish(root, params, failing("moco-vit-ln-s1"))
        settings = root / "matplotlibrc"
        settings.write_text(f"font.size: {seed}0\n")
        environment = {**os.environ, "PYTHONHASHSEED": seed, "MATPLOTLIBRC": str(settings)}
        command = [sys.executable, "-c", PROGRAM, str(root), str(given)]
        subprocess.run(command, check=True, cwd=PROJECT, env=environment)
        found.append([(root / "results/mini" / name).read_bytes() for name in FILES])
    assert found[0] == found[1]
    for content in found[0]:
        assert str(tmp_path).encode() not in content


FILES = ("leaderboard.md", "leaderboard.csv", "leaderboard.json", "figures/leaderboard.svg")
