"""The command line: wrong input is one line and exit code 2, at once and before any training."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import parser
from benchmark.core import canonical_json
from tests.helpers import tiny


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder to stand in, with the note of its images but without them."""
    tiny.write_params(tmp_path, tiny.raw())
    canonical_json.write(tmp_path / "data" / "mini" / "manifest.json", tiny.note(tiny.params()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--track", "minni"], "unknown track 'minni'; did you mean 'mini'"),
        (["plan", "--track", "../mini"], "unknown track"),
        (["data", "minni"], "unknown track 'minni'; did you mean 'mini'"),
        (["plan", "--experiment", "leaderbord"], "'leaderbord'; did you mean 'leaderboard'"),
        (["train", "--experiment", "leaderbord"], "'leaderbord'; did you mean 'leaderboard'"),
        (["train", "--method", "simclrr"], "'simclrr'; did you mean 'simclr'"),
        (["train", "--method", "moco"], "unknown method of experiment leaderboard 'moco'"),
        (["train", "--cell", "simclr-resnet-bn-s1"], "did you mean 'simclr-resnet-bn-s0'"),
        (["verify", "simclr-resnet-bn-s1"], "did you mean 'simclr-resnet-bn-s0'"),
        (["train", "--jobs", "0"], "--jobs is '0'"),
        (["train", "--jobs", "x"], "--jobs is 'x'"),
        (["train", "--jobs", "-1"], "--jobs"),
        (["train", "--jobs", "²"], "--jobs is '²'"),
        (["train", "--jobs", "1.5"], "--jobs is '1.5'"),
        (["verify", "--sample", "-1"], "--sample"),
        (["verify", "--sample", "0"], "--sample"),
        (["verify", "simclr-resnet-bn-s0"], "no published leaderboard"),
        (["leaderboard"], "no record of"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in tiny.refusal(capsys, *arguments)
    assert not (root / ".benchmark").exists()


@pytest.mark.parametrize(
    "arguments",
    [["trian"], [], ["train", "--job", "2", "--odd"], ["verify", "--sample", "x"]],
    ids=str,
)
def test_what_the_grammar_does_not_know_exits_with_2(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """argparse shows the usage first; its last line says what is wrong."""
    with pytest.raises(SystemExit) as exited:
        parser.main(arguments)
    assert exited.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("benchmark")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("titl", "x", "'titl'; did you mean 'title'"),
        ("methods/simclr/images", 1, "did you mean 'methods.simclr.images_seen'"),
        ("schemes/bn", {"norm": "bnn"}, "unknown norm 'bnn'; did you mean 'bn'"),
        ("schemes/bn", {"bakbone": {"norm": "bn"}}, "'bakbone'; did you mean 'backbone'"),
        ("backbones/resnet/model", "resnett", "unknown model 'resnett'; did you mean resnet, "),
        ("training/batch_size", "32", "training.batch_size is '32'"),
        ("training/batch_size", 161, "batch_size 161 is larger than the training split of 160"),
        ("evaluation/precise_bn_batch_size", 161, "precise_bn_batch_size 161 is larger than the"),
        ("evaluation/few_labels", [0.5, 1.5], "evaluation.few_labels.1 is 1.5"),
        ("evaluation/few_labels", [0.5, 0.5], "0.5 is listed twice"),
        ("evaluation/probe", "saga", "evaluation.probe is 'saga'"),
        ("evaluation/knn_temperature", float("nan"), "evaluation.knn_temperature is nan"),
        ("schemes/bn", {"backbone": {"norm": "bn"}}, "no norm for the projector of simclr"),
        (
            "schemes/bn",
            {"norm": "ghost-bn", "assignment": "strided", "groups": 5},
            "params.yaml: norm ghost-bn in the backbone: groups is 5",
        ),
        ("track", "other", "track is 'other', expected 'mini'"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "train", "sweep"])
def test_wrong_params_are_refused_by_every_verb(
    root: Path, capsys: pytest.CaptureFixture[str], verb: str, path: str, value: Any, said: str
) -> None:
    tiny.write_params(root, tiny.changed(tiny.raw(), path, value))
    assert said in tiny.refusal(capsys, verb)
    assert not (root / ".benchmark").exists()


@pytest.mark.parametrize("verb", ["plan", "train", "sweep"])
def test_a_queue_that_is_not_whole_batches_is_refused_by_every_verb(
    root: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/methods", ["moco"])
    tiny.write_params(root, tiny.changed(tree, "methods/moco/options/queue", 40))
    assert tiny.refusal(capsys, verb) == (
        "benchmark: params.yaml: method moco: queue is 40, expected a multiple of the batch size 32"
    )


@pytest.mark.parametrize("verb", ["plan", "train", "sweep"])
def test_micro_batches_that_would_change_a_step_are_refused_by_every_verb(
    root: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    tiny.write_params(root, tiny.changed(tiny.raw(), "training/micro_batches", 4))
    assert tiny.refusal(capsys, verb) == (
        "benchmark: params.yaml: method simclr: micro_batches is 4, expected 1: its loss needs the "
        "whole batch at once"
    )
    assert not (root / ".benchmark").exists()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("methods/moco/options/queue", 64, "queue is 64, expected at most 40: 0.25 of the 160"),
        ("methods/moco/batch_size", 161, "batch_size 161 is larger than the training split of 160"),
    ],
)
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("verb", ["plan", "train", "sweep"])
def test_numbers_that_the_images_are_too_few_for_are_refused_by_every_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    verb: str, share: bool, path: str, value: Any, said: str,
) -> None:  # fmt: skip
    """Also where the params give shares of the images: the built ones are counted."""
    tree = tiny.changed(tiny.raw(), "methods/moco/images_seen", 10_000)
    tree["experiments"]["leaderboard"] |= {
        "methods": ["moco"],
        "learning_rates": "tuned" if verb == "sweep" else "default",
    }
    if share:
        tree["data"]["splits"] = {"train": 0.625, "validation": 0.15, "test": 0.2}
    root = tiny.project(tmp_path / "project", tree)
    monkeypatch.chdir(root)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    assert parser.main(["plan"]) == 0
    tiny.write_params(root, tiny.changed(tree, path, value))
    assert said in tiny.refusal(capsys, verb)
    assert not (root / ".benchmark").exists()


@pytest.mark.parametrize("option", ["--devices", "--jobs", "--per-gpu", "--shard"])
@pytest.mark.parametrize("head", ["", "1/"])
def test_a_number_of_thousands_of_digits_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], option: str, head: str
) -> None:
    """Python itself raises ValueError for more than 4,300 digits."""
    canonical_json.write(root / "data" / "mini" / "manifest.json", tiny.note(tiny.params()))
    line = tiny.refusal(capsys, "train", option, head + "9" * 5000)
    assert f"{option} is '{head}999" in line
    assert len(line) < 200


def test_malformed_params_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "params.yaml").write_text("track: [\n", encoding="utf-8")
    assert "params.yaml: " in tiny.refusal(capsys, "train")
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        file.write("track: mini\ntrack: mini\n")
    assert 'duplicate key "track"' in tiny.refusal(capsys, "train")


def test_outside_a_project_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no params.yaml" in tiny.refusal(capsys, "plan")


@pytest.mark.parametrize("text", [None, "", "{", "{}", "[]"])
def test_images_that_are_not_built_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    manifest = root / "data" / "mini" / "manifest.json"
    manifest.unlink()
    if text is not None:
        manifest.write_text(text)
    for verb in ("train", "sweep"):
        assert "run `uv run benchmark data mini`" in tiny.refusal(capsys, verb)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("data/seed", 8, "seed is 0, params ask for 8"),
        ("data/options/size", 20, "options is {"),
        ("data/splits/train", 150, "splits is {"),
        ("data/source", "mini", "source is 'folder', params ask for 'mini'"),
    ],
)
def test_images_built_from_other_params_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str], path: str, value: Any, said: str
) -> None:
    tree = tiny.changed(tiny.raw(), path, value)
    if value == "mini":
        tree["data"]["options"] = {}
    tiny.write_params(root, tree)
    line = tiny.refusal(capsys, "train")
    assert said in line
    assert "run `uv run benchmark data mini`" in line


@pytest.mark.parametrize("verb", ["train", "sweep", "verify", "leaderboard", "claims", "advise"])
def test_images_of_another_folder_are_refused_by_every_verb(
    root: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """The path is not in the manifest, which may be published."""
    tree = tiny.changed(tiny.raw(), "experiments/long/learning_rates", "tuned")
    images = {"images": root / "images", "others": root / "others"}
    for folder in images.values():
        tiny.draw_images(folder)
    tiny.write_params(root, tree)
    assert parser.main(["data"]) == 0
    built = {path.name for path in (root / "data" / "mini").iterdir()}
    assert built == {"images-00000.npy", "manifest.json", "splits.safetensors"}
    assert not any(b"images" in path.read_bytes() for path in (root / "data").glob("*.options"))
    asked = {
        "sweep": ["--experiment", "long"],
        "advise": ["--method", "simclr", "--backbone", "resnet"],
    }.get(verb, [])
    for path in ("others", "nowhere"):
        tiny.write_params(root, tiny.changed(tree, "data/options/path", path))
        line = tiny.refusal(capsys, verb, *asked)
        assert (
            "built from another path than params ask for; run `uv run benchmark data mini`" in line
        )
        assert parser.main(["plan"]) == 0
        assert "built from another path" in capsys.readouterr().out
        # The value may be private: it is left for the user to fill in.
        assert parser.main(["plan", "--set", f"data.options.path={path}"]) == 0
        shown = capsys.readouterr().out
        assert "run `uv run benchmark data mini --set 'data.options.path=\"…\"'`" in shown
    tiny.write_params(root, tiny.changed(tree, "data/options/path", "others"))
    assert parser.main(["data"]) == 0
    capsys.readouterr()
    assert parser.main(["plan"]) == 0
    assert "another path" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "path", "value", "said"),
    [
        (
            "moco-resnet-bn-s0",
            "methods/moco/options/queue",
            64,
            "expected at most 40: 0.25 of the 160",
        ),
        (
            "moco-resnet-bn-s0",
            "methods/moco/options/queue",
            40,
            "expected a multiple of the batch size 32",
        ),
        ("mae-resnet-bn-s0", "methods/mae/options/patch", 5, "patch 5 does not divide 16"),
        (
            "simclr-resnet-bn-s0",
            "backbones/resnet/arguments/channels",
            [8],
            "must have four entries",
        ),
        ("simclr-resnet-bn-s0", "schemes/bn", {"norm": "gn", "groups": 3}, "do not divide 8"),
        (
            "simclr-resnet-bn-s0",
            "schemes/bn",
            {"norm": "ghost-bn", "assignment": "strided", "groups": 5},
            "5",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(
    label: str, path: str, value: Any, said: str
) -> None:
    """By the check before training, which builds every network without memory for its weights."""
    import torch

    from benchmark.core.errors import UserError
    from benchmark.training import network

    tree = tiny.changed(tiny.raw(), path, value)
    tree["experiments"]["leaderboard"]["methods"] = [label.split("-")[0]]
    cell = tiny.cell(label, tree=tree)
    with pytest.raises(UserError, match=said), torch.device("meta"):
        network.build(cell, tiny.manifest())


def test_groups_that_divide_every_layer_are_allowed() -> None:
    """Also where they do not divide 64, the width of timm's own stem."""
    import torch

    from benchmark.training import network

    tree = tiny.changed(tiny.raw(), "schemes/bn", {"norm": "gn", "groups": 3})
    tree["backbones"]["resnet"]["arguments"]["channels"] = [12, 12, 24, 24]
    tree["methods"]["simclr"]["options"]["hidden"] = 24
    with torch.device("meta"):
        assert network.build(tiny.cell("simclr-resnet-bn-s0", tree=tree), tiny.manifest())


def test_a_mistyped_verb_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.main(["lederboard"])
    said = capsys.readouterr().err
    assert "unknown verb 'lederboard'; did you mean 'leaderboard'?" in said
    assert "(see `uv run benchmark --help`)" in said


def test_output_that_is_ascii_alone_shows_what_it_can(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_params(root, tiny.changed(tiny.raw(), "title", "naïve"))
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert parser.main(["doctor"]) == 0
    sys.stdout.flush()
    assert rb"mini: na\xefve (built)" in shown.getvalue()


# --- what is quick


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["plan"], 0),
        (["train", "--method", "nonsense"], 2),
        (["train", "--jobs", "x"], 2),
        (["verify", "nonsense"], 2),
    ],
    ids=str,
)
def test_help_plans_and_errors_do_not_wait_for_torch(
    root: Path, arguments: list[str], code: int
) -> None:
    script = (
        "import sys\nfrom benchmark.cli.parser import main\ntry:\n    code = main(sys.argv[1:])\n"
        "except SystemExit as exit:\n    code = exit.code\n"
        "slow = {'torch', 'timm', 'sklearn', 'matplotlib', 'mlflow', 'dvc'} & set(sys.modules)\n"
        "print('slow:', sorted(slow), file=sys.stderr)\nsys.exit(code)\n"
    )
    begun = time.process_time()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=root, env=tiny.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "slow: []"
    assert "Traceback" not in done.stderr
    assert time.process_time() - begun < 3


def test_the_plan_lists_cells_with_their_state(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.main(["plan", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert len(entries) == 5
    assert {entry["state"] for entry in entries} == {"missing"}
    (root / "data" / "mini" / "manifest.json").unlink()
    assert parser.main(["plan", "--method", "raw-pixels"]) == 0
    shown = capsys.readouterr().out
    assert "mini/leaderboard/raw-pixels-pixels-none-s0  unknown" in shown
    assert "1 cell, 1 to train" in shown
    assert "`uv run benchmark data mini`" in shown
