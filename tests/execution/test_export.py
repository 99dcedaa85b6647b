"""An exported backbone is the evaluated one, in timm alone or with the benchmark."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.backbones import weights
from benchmark.backbones.exported import load as load_exported
from benchmark.cli import parser
from benchmark.core.errors import UserError
from benchmark.data.load import load
from benchmark.data.standardise import standardiser
from benchmark.data.storage import Splits
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.features import embed
from benchmark.execution import export as exporting
from benchmark.planning.cell import Cell, Task
from benchmark.planning.plan import cells
from benchmark.provenance.program import program
from benchmark.training import network
from benchmark.training.checkpoint import load_network
from tests.helpers import tiny

PLAIN = {
    "simclr-vit-ln-s0": "vit_base_patch16_clip_224",
    "simclr-small-bn-s0": "test_resnet",
    "simclr-small-own-s0": "test_resnet",
    "simclr-tokens-ln-s0": "test_vit",
    "simclr-next-own-s0": "test_convnext",
    "simclr-net-bn-s0": "test_efficientnet",
    "pretrained-loaded-own-s0": "test_resnet",
    "untrained-small-bn-s0": "test_resnet",
}
"""Cells whose network is one of timm's, and its name."""

OTHERS = (
    "simclr-resnet-bn-s0", "mae-resnet-bn-s0", "dino-resnet-bn-momentum-s0", "simclr-vit-bn-s0",
    "simclr-small-none-skipinit-s0", "simclr-net-gn-s0", "simclr-next-bn-s0", "simclr-stem-bn-s0",
    "mae-vit-sepnorm-s0",
)  # fmt: skip
"""Cells that need the benchmark: another stem, another norm, a scalar on each branch."""


def raw(sha256: str = "0" * 64) -> dict[str, Any]:
    tree = tiny.raw()
    tree["backbones"] |= {
        "small": {"model": "test_resnet", "optimizer": "sgd"},
        "stem": {"model": "test_resnet", "optimizer": "sgd", "stem": {"stride": 1}},
        "tokens": {"model": "test_vit", "optimizer": "sgd", "arguments": {"patch_size": 4}},
        "next": {"model": "test_convnext", "optimizer": "sgd", "arguments": {"output_stride": 8}},
        "net": {"model": "test_efficientnet", "optimizer": "sgd"},
        "loaded": {
            "model": "test_resnet", "optimizer": "sgd", "weights": "start.pth", "sha256": sha256,
        },
    }  # fmt: skip
    tree["schemes"]["own"] = {"backbone": {"norm": "own"}, "heads": {"norm": "bn"}}
    tree["methods"]["pretrained"] = {"options": {}}
    for name in ("simclr", "mae", "dino"):
        tree["methods"][name]["images_seen"] = 8 * tiny.BATCH
        for key in ("learning_rate", "weight_decay"):
            tree["methods"][name][key] = dict.fromkeys(tree["backbones"], 0.01)
    rows = [label.removesuffix("-s0").split("-", 2) for label in (*PLAIN, *OTHERS)]
    first, *more = [
        {"methods": [method], "backbones": [backbone], "schemes": [scheme]}
        for method, backbone, scheme in rows
    ]
    diverging = {"methods": ["supervised"], "backbones": ["resnet"], "schemes": ["bn"]}
    pixels = {"methods": ["raw-pixels"], "backbones": ["resnet"], "schemes": ["bn"]}
    tree["experiments"]["leaderboard"] = {
        **first, "also": [*more, diverging, pixels], "seeds": [0], "learning_rates": "default",
    }  # fmt: skip
    return tree


def planned(root: Path) -> dict[str, Cell]:
    tree = YAML(typ="safe", pure=True).load((root / "params.yaml").read_text(encoding="utf-8"))
    return {cell.label: cell for cell in cells(tiny.params(tree), "leaderboard", None)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with every cell trained, and exported to `out`."""
    root = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), root / "start.pth")
    sha256 = hashlib.sha256((root / "start.pth").read_bytes()).hexdigest()
    tiny.project(root, raw(sha256))
    trained = tiny.run(root, "train", "--jobs", "1")
    assert trained.returncode == 0, trained.stderr
    for label in (*PLAIN, *OTHERS):
        ended = tiny.run(root, "export", label, f"out/{label}", "--device", "cpu")
        assert ended.returncode == 0, ended.stderr
        loader = "timm.create_model" if label in PLAIN else "benchmark.backbones.exported.load"
        assert ended.stdout.startswith(loader), label
    return root


@pytest.fixture(scope="module")
def splits(project: Path) -> Splits:
    return load(project / "data" / "mini", ("train", "validation", "test"))


@pytest.fixture(scope="module")
def evaluated(project: Path, splits: Splits) -> Mapping[str, Tensor]:
    """The embeddings of the test images when a cell's ranking metric is computed."""
    found = {}
    standardise = standardiser(splits.manifest, torch.device("cpu"))
    both = {name: (splits.images[name], splits.labels[name]) for name in splits.images}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for label in (*PLAIN, *OTHERS):
            cell = planned(project)[label]
            task, store = cell.on(tiny.dataset(project)), tiny.store(project)
            method = network.build(cell, splits.manifest)
            if cell.config.training:
                assert load_network(store.trained(task.training_key), task.training_key, method)
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            spec = cell.config.evaluation
            metrics = evaluate(method.eval_backbone, both, spec, standardise, method.encode).metrics
            record = store.record(task.fingerprint)
            assert record
            assert metrics == record.result.metrics
            found[label] = embed(method.eval_backbone, splits.images["test"], standardise)["pooled"]
    return found


def standardised(splits: Splits) -> Tensor:
    mean = torch.tensor(splits.manifest.mean).view(1, -1, 1, 1)
    std = torch.tensor(splits.manifest.std).view(1, -1, 1, 1)
    x = (splits.images["test"][:].float() / 255 - mean) / std
    return x.contiguous(memory_format=torch.channels_last)


BY_TIMM = """
import sys
import timm, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
x = load_file("x.safetensors")["x"].contiguous(memory_format=torch.channels_last)
found = {}
for label in sys.argv[1:]:
    model = timm.create_model(f"local-dir:out/{label}", pretrained=True, num_classes=0).eval()
    model.to(memory_format=torch.channels_last)
    names = load_file(f"out/{label}/model.safetensors").keys()
    assert names == model.state_dict().keys(), set(names) ^ set(model.state_dict())
    with torch.no_grad():
        found[label] = model(x).contiguous()
assert not [name for name in sys.modules if name.partition(".")[0] == "benchmark"]
save_file(found, "z.safetensors")
"""


def test_timm_alone_gives_the_evaluated_embeddings(
    project: Path, splits: Splits, evaluated: Mapping[str, Tensor]
) -> None:
    save_file({"x": standardised(splits).contiguous()}, project / "x.safetensors")
    command = [sys.executable, "-I", "-c", BY_TIMM, *PLAIN]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = load_file(project / "z.safetensors")
    for label, architecture in PLAIN.items():
        assert torch.equal(found[label], evaluated[label]), label
        config = json.loads((project / "out" / label / "config.json").read_bytes())
        assert config["architecture"] == architecture
        assert config["pretrained_cfg"]["mean"] == list(splits.manifest.mean)


@pytest.mark.parametrize("label", [*PLAIN, *OTHERS])
def test_the_benchmark_gives_the_evaluated_embeddings(
    project: Path, splits: Splits, evaluated: Mapping[str, Tensor], label: str
) -> None:
    backbone = load_exported(project / "out" / label)
    assert not backbone.training
    with torch.no_grad():
        found = backbone.features(standardised(splits))["pooled"]
    assert torch.equal(found, evaluated[label])


@pytest.mark.parametrize("label", OTHERS)
def test_timm_refuses_what_it_cannot_build(project: Path, label: str) -> None:
    with pytest.raises(RuntimeError, match="Unknown model"):
        timm.create_model(f"local-dir:{project / 'out' / label}", pretrained=True)


def test_the_statistics_are_not_those_of_the_training(project: Path) -> None:
    """Those of the ranking metric are measured again."""
    label = "simclr-small-bn-s0"
    task = planned(project)[label].on(tiny.dataset(project))
    kept = load_file(tiny.store(project).trained(task.training_key))
    state = load_file(project / "out" / label / "model.safetensors")
    name = "layer1.0.bn1"
    trained = f"network/backbone.net.{name}"
    assert torch.equal(state[f"{name}.weight"], kept[f"{trained}.weight"])
    assert not torch.equal(state[f"{name}.running_mean"], kept[f"{trained}.running_mean"])


@pytest.mark.parametrize("label", ["simclr-net-gn-s0", "simclr-vit-bn-s0", "simclr-next-bn-s0"])
def test_what_is_exported_can_be_started_from(
    project: Path, splits: Splits, evaluated: Mapping[str, Tensor], label: str
) -> None:
    """The tensors of wrapped norms have timm's names, see test_weights."""
    state = load_file(project / "out" / label / "model.safetensors")
    assert not [name for name in state if re.search(r"norm\d?\.(norm|layer)\.|bn1\.norm", name)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        backbone = network.build(planned(project)[label], splits.manifest).backbone
    said = weights.load(backbone, state)
    assert (said.left_out, said.initial, said.changed) == ((), (), ())
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        found = backbone.eval().features(standardised(splits))["pooled"]
    assert torch.equal(found, evaluated[label])


# The card


def snippet(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(code)


AS_WRITTEN = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
torch.manual_seed(0)
scope = {}
exec(Path(sys.argv[1]).read_text(), scope)
save_file({name: scope[name].contiguous() for name in ("images", "embeddings")}, sys.argv[2])
"""


@pytest.mark.parametrize("label", ["simclr-tokens-ln-s0", "simclr-net-gn-s0"])
def test_the_code_of_the_card_runs_as_written(
    project: Path, splits: Splits, tmp_path: Path, label: str
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(project / "out" / label, folder)
    (tmp_path / "code.py").write_text(snippet(folder))
    isolated = ["-I"] if label in PLAIN else []
    given = [str(tmp_path / name) for name in ("code.py", "z")]
    command = [sys.executable, *isolated, "-c", AS_WRITTEN, *given]
    done = subprocess.run(
        command, cwd=folder, env=tiny.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "z")
    assert found["images"].shape == (4, 1, tiny.SIDE, tiny.SIDE)
    standardise = standardiser(splits.manifest, torch.device("cpu"))
    with torch.no_grad():
        expected = load_exported(folder).features(standardise(found["images"]))["pooled"]
    torch.testing.assert_close(found["embeddings"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label", ["simclr-small-bn-s0", "mae-resnet-bn-s0"])
def test_the_card_says_what_the_record_says(project: Path, splits: Splits, label: str) -> None:
    cell = planned(project)[label]
    task = cell.on(tiny.dataset(project))
    record = tiny.store(project).record(task.fingerprint)
    assert record
    text = (project / "out" / label / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    head = YAML(typ="safe", pure=True).load(front)
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == ("timm" if label in PLAIN else "ssl-norm-benchmark")
    assert head["datasets"] == ["folder"]
    assert "self-supervised-learning" in head["tags"]
    rows = dict(re.findall(r"^\| (.+?) \| (.*) \|$", body, re.MULTILINE))
    knn = record.result.metrics["pooled_reestimated.knn5"]
    assert rows["cell"] == f"`{cell.name}`"
    assert rows["accuracy"].startswith(f"{100 * knn:.1f} % of the test images: kNN (k = 5)")
    assert rows["fingerprint"] == f"`{task.fingerprint}`"
    assert rows["commit"].startswith(f"`{program().commit}`")
    assert rows["norm of the backbone"] == "bn"
    assert ("norm of the projector" in rows) == (cell.method == "simclr")
    assert ("norm of the decoder" in rows) == (cell.method == "mae")
    assert f"{splits.manifest.splits['train'].count} training images" in rows["data"]
    assert splits.manifest.sha256 in rows["data"]
    assert f"torch.tensor({list(splits.manifest.mean)})" in body
    assert "measured again over the whole training split" in body


def test_the_licence_of_weights_from_a_file_is_not_made_up(project: Path) -> None:
    folder = project / "out" / "pretrained-loaded-own-s0"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: other\n")
    assert "| licence | that of the initial weights; " in text
    config = json.loads((folder / "config.json").read_bytes())
    assert config["pretrained_cfg"]["license"] == "other"
    assert "start.pth" not in text + json.dumps(config)


# What cannot be exported


@pytest.fixture
def root(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ignored = shutil.ignore_patterns("out", "images", "results")
    shutil.copytree(project, tmp_path, dirs_exist_ok=True, ignore=ignored)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    return tmp_path


LABEL = "simclr-small-bn-s0"


def trained_state(root: Path) -> tuple[Task, Path]:
    task = planned(root)[LABEL].on(tiny.dataset(root))
    return task, tiny.store(root).trained(task.training_key)


def test_a_folder_that_is_in_use_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "used").mkdir()
    (root / "used" / "file").touch()
    for target in ("used", "used/file"):
        said = tiny.refusal(capsys, "export", LABEL, target)
        assert said == f"benchmark: {target}: expected a new folder or an empty one"
    (root / "empty").mkdir()
    assert parser.main(["export", LABEL, "empty", "--device", "cpu"]) == 0
    assert {path.name for path in (root / "empty").iterdir()} == {
        "README.md", "config.json", "model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("simclr-small-bn-s1", "unknown cell 'simclr-small-bn-s1'; did you mean"),
        ("raw-pixels-pixels-none-s0", "raw-pixels-pixels-none-s0 has no backbone to export"),
        ("supervised-resnet-bn-s0", "is diverged, so it has no final state to export"),
    ],
)
def test_cells_without_a_backbone_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str], cell: str, said: str
) -> None:
    assert said in tiny.refusal(capsys, "export", cell, "new")
    assert not (root / "new").exists()


def test_a_row_is_not_one_cell(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = tiny.refusal(
        capsys, "export", "simclr-small-bn", "new", "--set", "experiments.leaderboard.seeds=[0, 1]"
    )
    assert "simclr-small-bn is 2 cells, and one is exported: simclr-small-bn-s0, simclr-" in said


def test_a_damaged_state_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = trained_state(root)
    path.write_bytes(path.read_bytes()[:-8])
    said = tiny.refusal(capsys, "export", LABEL, "new", "--device", "cpu")
    assert f"{path.name} is damaged: delete it and train mini/leaderboard/{LABEL} again" in said
    assert not (root / "new").exists()


def test_the_command_that_makes_a_missing_state_is_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, path = trained_state(root)
    before = tiny.store(root).record(task.fingerprint)
    whole = path.read_bytes()
    path.unlink()
    said = tiny.refusal(capsys, "export", LABEL, "new")
    assert said.startswith(f"benchmark: mini/leaderboard/{LABEL} has no stored final state: `")
    command = shlex.split(said.split("`")[1])
    assert command[:4] == ["uv", "run", "benchmark", "train"]
    found = tiny.run(root, *[word for word in command[3:] if word != "--state"])
    assert "0 trained, 1 found done" in found.stderr
    made = tiny.run(root, *command[3:])
    assert "1 trained, 0 found done" in made.stderr, made.stderr
    assert path.read_bytes() == whole
    assert tiny.store(root).record(task.fingerprint) == before
    assert "0 trained, 1 found done" in tiny.run(root, *command[3:]).stderr
    assert parser.main(["export", LABEL, "new", "--device", "cpu"]) == 0


@pytest.mark.parametrize("ending", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_export_that_ends_early_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, ending: Any
) -> None:
    def card(*arguments: Any) -> str:
        raise ending

    monkeypatch.setattr(exporting, "card", card)
    before = {path.name for path in root.iterdir()}
    assert parser.main(["export", LABEL, "new", "--device", "cpu"]) in (2, 130)
    assert {path.name for path in root.iterdir()} == before


KILLED = f"""
import os, signal
from benchmark.core import determinism
determinism.prepare()
from benchmark.cli import parser
from benchmark.execution import export
export.card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
parser.main(["export", {LABEL!r}, "new", "--device", "cpu"])
"""


def test_a_killed_export_leaves_no_half_folder(root: Path) -> None:
    before = {path.name for path in root.iterdir()}
    command = [sys.executable, "-c", KILLED]
    done = subprocess.run(command, cwd=root, env=tiny.environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (root / "new").exists()
    assert parser.main(["export", LABEL, "new", "--device", "cpu"]) == 0
    assert {path.name for path in root.iterdir()} == before | {"new"}


# What `load` refuses


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", None, "expected a folder of `benchmark export` \\(FileNotFoundError"),
        ("config.json", {"benchmark": None}, "config.json: benchmark: is empty or not a mapping"),
        ("config.json", {"shape": [1, 2]}, "config.json: benchmark: shape has too few entries"),
        ("config.json", {}, "has other tensors than config.json describes"),
        ("config.json", {"components": {"backbone timm": 9}}, "made by backbone timm 9, and this"),
        ("model.safetensors", None, "expected a folder of `benchmark export`"),
        ("model.safetensors", b"", "expected a folder of `benchmark export`"),
    ],
    ids=str,
)
def test_a_folder_that_is_not_as_exported_is_refused(
    project: Path, tmp_path: Path, file: str, change: Any, said: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(project / "out" / "simclr-net-gn-s0", folder)
    if change is None:
        (folder / file).unlink()
    elif isinstance(change, bytes):
        (folder / file).write_bytes(change)
    else:
        config = json.loads((folder / file).read_bytes())
        block = config["benchmark"]
        if "benchmark" in change:
            config["benchmark"] = None
        elif change:
            block |= change
        else:
            block["backbone"]["architecture"] = "test_resnet"
        (folder / file).write_text(json.dumps(config))
    with pytest.raises(UserError, match=said) as refused:
        load_exported(folder)
    assert len(str(refused.value).splitlines()) == 1
