"""Cells that start from a file, from `plan` to the leaderboard and to `verify`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from benchmark.data.load import load
from benchmark.data.standardise import standardiser
from benchmark.evaluation.knn import knn_accuracy
from benchmark.results import published
from benchmark.results.records import RunLog
from benchmark.training import network
from tests.helpers import tiny
from tests.helpers.warm import Ended

FILE = "private/start.pth"


def write_file(path: Path, seed: int) -> str:
    """A checkpoint of timm's model for colour images and five classes; returns its checksum."""
    torch.manual_seed(seed)
    path.parent.mkdir(exist_ok=True)
    made = timm.create_model("test_resnet", num_classes=5)
    for name, buffer in made.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    torch.save({"model": made.state_dict(), "epoch": 3}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def raw(sha256: str) -> dict[str, Any]:
    tree = tiny.raw()
    entry = {"model": "test_resnet", "optimizer": "sgd", "weights": FILE, "sha256": sha256}
    tree["backbones"]["loaded"] = entry
    tree["methods"]["pretrained"] = {"options": {}}
    for key in ("learning_rate", "weight_decay"):
        tree["methods"]["simclr"][key]["loaded"] = 0.01
    tree["experiments"] = {
        "leaderboard": {
            "methods": ["simclr", "pretrained", "raw-pixels"], "backbones": ["loaded"],
            "schemes": ["bn", "gn"], "seeds": [0, 1], "learning_rates": "default",
        }
    }  # fmt: skip
    return tree


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    root = tmp_path_factory.mktemp("loaded")
    tiny.project(root, raw(write_file(root / FILE, 0)))
    return root, tiny.run(root, "train", "--jobs", "1")


@pytest.fixture
def root(trained: tuple[Path, Ended], tmp_path: Path) -> Path:
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def records(root: Path) -> dict[str, Any]:
    folder = root / "results" / "mini" / "records" / "leaderboard"
    return {path.stem: published.read(path).record for path in folder.rglob("*.json")}


def test_it_is_said_before_the_training_what_became_of_each_tensor(
    trained: tuple[Path, Ended],
) -> None:
    root, ended = trained
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("weights of loaded")]
    # One for each scheme, not for each cell.
    assert [line.split(": ")[0] for line in lines] == [
        "weights of loaded under bn", "weights of loaded under gn",
    ]  # fmt: skip
    assert "90 tensors loaded; left out: fc.weight, fc.bias; changed: conv1.0.weight: " in lines[0]
    assert "45 tensors loaded; left out: conv1.1.running_mean" in lines[1]
    logs = [RunLog.model_validate(json.loads(p.read_text())) for p in root.rglob("run.json")]
    found = [log.weights for log in logs if log.weights]
    assert len(found) == 8
    assert {(entry.tensors, len(entry.left_out)) for entry in found} == {(90, 2), (45, 47)}


def test_the_control_is_the_file_as_timm_loads_it(trained: tuple[Path, Ended]) -> None:
    root, _ = trained
    splits = load(root / "data" / "mini", ("train", "test"))
    standardise = standardiser(splits.manifest, torch.device("cpu"))
    model = timm.create_model(
        "test_resnet", pretrained=True, pretrained_cfg_overlay={"file": str(root / FILE)},
        in_chans=1, num_classes=0,
    )  # fmt: skip
    model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    with torch.no_grad():
        z = {name: model(standardise(x[:].float() / 255)) for name, x in splits.images.items()}
    (accuracy,) = knn_accuracy(
        (z["train"], splits.labels["train"]), (z["test"], splits.labels["test"]), [5], 0.07
    )
    first, second = (records(root)[f"pretrained-loaded-bn-s{seed}"].result for seed in (0, 1))
    assert first.metrics["pooled.knn5"] == accuracy
    assert first == second  # the same for every seed
    # Its statistics are those of other images.
    assert first.metrics["pooled_reestimated.knn5"] != accuracy


def test_the_weights_are_the_same_for_every_seed_and_the_head_is_not(
    trained: tuple[Path, Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = trained
    monkeypatch.chdir(root)
    sha256 = hashlib.sha256((root / FILE).read_bytes()).hexdigest()
    manifest = load(root / "data" / "mini", ("train",)).manifest
    first, second = (
        network.build(tiny.cell(f"simclr-loaded-gn-s{seed}", tree=raw(sha256)), manifest)
        for seed in (0, 1)
    )
    state, other = first.backbone.state_dict(), second.backbone.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert not torch.equal(*(next(m.projector.parameters()) for m in (first, second)))
    name = "layer1.0.conv1.weight"
    file = torch.load(FILE, weights_only=True)["model"]
    assert torch.equal(state[f"net.{name}"], file[name])


def test_no_published_or_stored_file_has_the_path(trained: tuple[Path, Ended]) -> None:
    root, _ = trained
    files = [*(root / "results").rglob("*.json"), *(root / ".benchmark/cells").rglob("*.json")]
    assert len(files) > 10
    assert not [path for path in files if "private" in path.read_text(encoding="utf-8")]


def test_the_control_is_the_bar_of_its_backbone(root: Path) -> None:
    ended = tiny.run(root, "leaderboard")
    assert ended.returncode == 0, ended.stderr
    table = json.loads((root / "results/mini/leaderboard.json").read_text(encoding="utf-8"))
    rows = {f"{row['method']}-{row['scheme']}": row for row in table["rows"]}
    assert rows["pretrained-bn"]["control"]
    bar = 0.02 + max(
        rows[row]["knn_reestimated"]["mean"]
        for row in ("pretrained-bn", "pretrained-gn", "raw-pixels-none")
    )
    for scheme in ("bn", "gn"):
        row = rows[f"simclr-{scheme}"]
        assert row["learnt"] == (row["knn_reestimated"]["mean"] >= bar)
    page = (root / "results/mini/leaderboard.md").read_text(encoding="utf-8")
    assert "`pretrained` is the backbone with the weights of its file" in page
    assert "This experiment lacks these controls: supervised." in page


def test_verify_takes_the_file_from_wherever_it_is(root: Path) -> None:
    assert tiny.run(root, "leaderboard").returncode == 0
    (root / FILE).rename(root / "elsewhere.pth")
    cells = ["pretrained-loaded-bn-s0", "simclr-loaded-gn-s1"]
    away = tiny.run(root, "verify", *cells)
    assert away.returncode == 2
    assert away.stderr.splitlines()[-1] == (
        f"benchmark: backbones.loaded: weights is '{FILE}': No such file or directory"
    )
    found = tiny.run(root, "verify", *cells, "--set", "backbones.loaded.weights=elsewhere.pth")
    assert found.returncode == 0, found.stderr
    assert [line.split()[1] for line in found.stdout.splitlines()] == ["identical"] * 2


@pytest.mark.parametrize("other", [True, False], ids=["another file", "another network"])
def test_what_does_not_fit_is_refused_before_any_training(tmp_path: Path, other: bool) -> None:
    tree = raw(write_file(tmp_path / FILE, 0))
    if other:
        write_file(tmp_path / FILE, 1)
        said = f"weights is '{FILE}': its sha256 is "
    else:
        tree["backbones"]["loaded"]["model"] = "resnet18"
        said = "layer1.0.conv1.weight is (32, 32, 3, 3) in the file and (64, 64, 3, 3) in the"
    tiny.project(tmp_path, tree)
    planned = tiny.run(tmp_path, "plan")
    assert planned.returncode == 0  # it does not read the file
    ended = tiny.run(tmp_path, "train")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"benchmark: backbones.loaded: {said}")
    assert not list(tmp_path.rglob("record.json"))
