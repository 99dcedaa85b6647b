"""A track that `benchmark new` writes fits the images, is sound, and needs no edit."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from benchmark.cli import parser
from benchmark.config.params import read
from benchmark.config.schema import MethodParams, Params
from benchmark.planning import plan
from benchmark.planning.sizes import check
from benchmark.scaffold import track
from tests.helpers import tiny


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, the top of a project."""
    tiny.write_params(tmp_path, tiny.raw())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def draw(
    folder: Path, counts: dict[str, int], sides: tuple[int, int] = (20, 20), mode: str = "RGB"
) -> Path:
    """Images of noise in class folders; the same call draws the same images."""
    dice = np.random.default_rng(len(str(folder)))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shape = (sides[1], sides[0], 3)[: 3 if mode == "RGB" else 2]
            pixels = dice.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def new(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints."""
    capsys.readouterr()
    code = parser.main(["new", "track", "mine", *arguments])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def written(root: Path) -> Params:
    return read(root / "tracks/mine/params.yaml")


def check_cells(params: Params, images: int, side: int) -> None:
    """Every cell of both experiments is defined and fits the images."""
    for experiment in params.experiments:
        rows = plan.rows(params, experiment)
        rates = {
            row: plan.default_setting(params, row)
            for row in rows
            if plan.is_trained(params, row.method)
        }
        for cell in plan.cells(params, experiment, rates):
            check(cell.config, images, side)


@pytest.mark.parametrize(
    ("sides", "given", "side", "patch", "stored"),
    [
        ((28, 28), None, 28, 7, 28),
        ((31, 90), None, 28, 7, 28),
        ((40, 33), None, 32, 8, 32),
        ((5, 9), None, 8, 2, 8),
        ((300, 200), None, 64, 8, 64),
        ((32, 32), 16, 16, 4, 16),
        ((300, 200), 96, 96, 12, 96),
        ((300, 200), 224, 224, 16, 224),
        ((300, 240), 224, 224, 16, 240),
        ((300, 400), 224, 224, 16, 256),
    ],
)
def test_size_and_patches_fit_the_images(
    here: Path,
    sides: tuple[int, int],
    given: int | None,
    side: int,
    patch: int,
    stored: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw(here / "images", {"a": 30, "b": 30}, sides)
    said = new(capsys, "--images", "images", *(["--size", str(given)] if given else []))
    params = written(here)
    assert params.data.options["size"] == stored
    assert params.image_size == (side if stored > side else None)
    assert f"networks get {side}×{side} pixels" in said
    assert ("they are enlarged" in said) == (side > min(sides))
    assert ("--size 224" in said) == (given is None and side < min(sides))
    assert params.backbones["vit"].arguments["patch_size"] == patch
    assert params.methods["mae"].options["patch"] == patch
    check_cells(params, 42, stored)

    import torch

    from benchmark.backbones.base import ImageShape
    from benchmark.components import registry
    from benchmark.norms.factory import SectionNorms

    # 16 patches at least, and a last map of at least one position that all norms can take.
    assert (side // patch) ** 2 >= 16
    for backbone in ("resnet", "vit"):
        for scheme in params.experiments["tuned"].schemes:
            norms = SectionNorms("backbone", params.schemes[scheme]["backbone"])
            arguments = params.backbones[backbone].arguments
            network = registry.build(
                "backbone", backbone, ImageShape(3, side, side), norms, **arguments
            )
            assert network(torch.rand(2, 3, side, side)).shape == (2, network.width)


@pytest.mark.parametrize("count", [16, 23, 50, 100, 1000])
def test_batch_queue_and_lengths_fit_the_number_of_images(
    here: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(here / "images", dict.fromkeys("abc", count), (8, 8))
    new(capsys, "--images", "images")
    params = written(here)
    assert parser.main(["data", "mine"]) == 0
    manifest = json.loads((here / "data/mine/manifest.json").read_text(encoding="utf-8"))
    train = manifest["splits"]["train"]["count"]
    check_cells(params, train, 8)
    # The largest powers of two that are allowed, and what a queue must be a multiple of.
    assert train / 8 < params.training.batch_size <= train / 4 or params.training.batch_size == 64
    assert train / 2 / 4 < params.methods["moco"].options["queue"] <= train / 4
    recipe = params.methods["simclr"]
    assert isinstance(recipe, MethodParams)
    assert recipe.images_seen == max(64_000, min(90 * 3 * int(0.7 * count), 128_000))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_only_colour_images_get_other_colours(
    here: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(here / "images", {"a": 30, "b": 30}, mode=mode)
    said = new(capsys, "--images", "images")
    params, colour = written(here), mode == "RGB"
    assert params.data.options["channels"] == (3 if colour else 1)
    assert ("colour" in said, "grey" in said) == (colour, not colour)
    for key in ("saturation", "hue", "grayscale"):
        assert (params.views["strong"][key] > 0) == colour, key
    assert params.views["strong"]["brightness"] > 0


@pytest.mark.parametrize("validation", [True, False])
def test_official_splits_are_kept_and_copies_do_not_count(
    here: Path, validation: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(here / "images/train", {"a": 40, "b": 60})
    draw(here / "images/test", {"a": 5, "b": 7})
    if validation:
        draw(here / "images/val", {"a": 3, "b": 4})
    else:
        for number in range(4):
            shutil.copy(here / "images/train/a/0.png", here / f"images/train/a/copy{number}.png")
    new(capsys, "--images", "images")
    found = written(here).data.splits.model_dump(exclude_none=True)
    expected = {"train": 100, "validation": 7} if validation else {"train": 85, "validation": 15}
    assert found == expected | {"test": 12}
    assert parser.main(["data", "mine"]) == 0
    manifest = json.loads((here / "data/mine/manifest.json").read_text(encoding="utf-8"))
    assert {name: split["count"] for name, split in manifest["splits"].items()} == found


@pytest.mark.parametrize("way", ["relative", "absolute", "home", "link", "odd"])
def test_a_path_is_used_as_it_is_given(
    here: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = 'my "images" \\ ${x}: #1 é' if way == "odd" else "my images"
    folder = draw(here / name, {"a": 30, "b": 30}, (8, 8))
    (here / "link").symlink_to(folder)
    given = {"absolute": str(folder), "home": f"~/{name}", "link": "link"}.get(way, name)
    new(capsys, "--images", given, "--track-title", "a: {b} \x85 # 'c' \"d\"")
    params = written(here)
    assert params.data.options["path"] == given
    assert params.title == "a: {b} \x85 # 'c' \"d\""
    assert parser.main(["data", "mine"]) == 0
    assert "train 42, validation" in capsys.readouterr().out


def test_ignored_files_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(here / "images", {"a": 30, "b": 30})
    (here / "images/a/notes.txt").write_text("no image", encoding="utf-8")
    assert "ignored files: 1 .txt" in new(capsys, "--images", "images").splitlines()


def labelled(root: Path) -> None:
    draw(root / "good", {"a": 30, "b": 30})
    draw(root / "one", {"a": 30})
    draw(root / "flat", {".": 30})
    draw(root / "few", {"a": 30, "b": 2})
    draw(root / "tiny", {"a": 10, "b": 10})
    draw(root / "case", {"Cat": 30, "cat": 30})
    draw(root / "broken", {"a": 30, "b": 30})
    (root / "broken/a/0.png").write_bytes(b"no image")
    draw(root / "other", {"a": 30, "b": 30})
    Image.new("L", (20, 20)).save(root / "other/a/0.png", format="PPM")
    (root / "empty").mkdir()
    (root / "tracks/there").mkdir(parents=True)


REFUSED = [
    (["mine", "--images", "nowhere"], "--images is 'nowhere': expected a folder of images"),
    (["mine", "--images", ""], "--images is '': expected a folder of images"),
    (["mine", "--images", "~nosuchuser/x"], "--images is '~nosuchuser/x': expected a folder"),
    (["mine", "--images", "x" * 5000], "expected a folder of images, found none"),
    (["mine", "--images", "\udcff"], "expected a path in UTF-8"),
    (["mine", "--images", "one"], "--images: expected at least 2 class folders in one, found 1 (a)"),
    (["mine", "--images", "flat"], "--images: expected a folder for each class in flat, found none"),
    (["mine", "--images", "flat"], "images without classes need --evaluate DIR"),
    (["mine", "--images", "empty"], "--images: expected a folder for each class in empty, found none"),
    (["mine", "--images", "few"], "class 'b': expected at least 3 images in few/b"),
    (["mine", "--images", "tiny"], "20 images, of which 14 would be for training; expected at least 32"),
    (["mine", "--images", "case"], "the names of the class folders Cat and cat differ only in case"),
    (["mine", "--images", "broken"], "broken/a/0.png: expected an image, found UnidentifiedImageError"),
    (["mine", "--images", "broken"], "; correct or remove it"),
    # What the data source does not read.
    (["mine", "--images", "other"], "other/a/0.png: expected an image, found UnidentifiedImageError"),
    (["mine", "--images", "flat", "--evaluate", "one"], "--evaluate: expected at least 2 class folders"),
    (["mine", "--images", "empty", "--evaluate", "good"], "--images: expected images in empty"),
    (["a/b", "--images", "good"], "NAME is 'a/b', expected letters, digits and - _ ."),
    (["mini", "--images", "good"], "NAME is 'mini', expected a new name: 'mini' is taken"),
    (["There", "--images", "good"], "NAME is 'There', expected a new name: 'there' is taken"),
    (["mine", "--images", "good", "--size", "30"], "--size is 30, expected a multiple of 4"),
    (["mine", "--images", "good", "--size", "36"], "--size is 36, expected a multiple of 4"),
    (["mine", "--images", "good", "--size", "4"], "--size is 4, expected"),
    (["mine", "--images", "good", "--size", "-8"], "--size is -8, expected"),
    (["mine", "--images", "good", "--size", "2000"], "--size is 2000, expected"),
]  # fmt: skip


def test_what_cannot_become_a_track_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(here)
    for arguments, said in REFUSED:
        assert said in tiny.refusal(capsys, "new", "track", *arguments)
    assert [path.name for path in (here / "tracks").iterdir()] == ["there"]
    assert not list((here / "tracks/there").iterdir())


def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(here / "images", {"a": 30, "b": 30})
    new(capsys, "--images", "images")
    file = here / "tracks/mine/params.yaml"
    file.write_text("edited", encoding="utf-8")
    said = tiny.refusal(capsys, "new", "track", "mine", "--images", "images")
    assert "'mine' is taken" in said
    assert file.read_text(encoding="utf-8") == "edited"


def test_a_full_disk_leaves_no_half_of_a_track(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(here / "images", {"a": 30, "b": 30})
    written = Path.write_text

    def full(path: Path, *given: Any, **more: Any) -> int:
        if path.name == "dvc.yaml":
            # As the system's own, which does not name the file.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(path, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        said = tiny.refusal(capsys, "new", "track", "mine", "--images", "images")
    assert said == f"benchmark: {here}/tracks/mine cannot be written: No space left on device"
    assert not list((here / "tracks").iterdir())
    new(capsys, "--images", "images")


def test_it_is_for_the_top_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "images", {"a": 30, "b": 30})
    monkeypatch.chdir(tmp_path)
    said = tiny.refusal(capsys, "new", "track", "mine", "--images", "images")
    assert "run this at the top of the project" in said


# --- without classes


def unlabelled(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    draw(root / "photos", {"2024/05": 200, "2025": 100, ".hidden": 50}, (64, 48))
    draw(root / "labelled", {"a": 30, "b": 30}, (20, 20))
    return new(capsys, "--images", "photos", "--evaluate", "labelled")


def test_images_without_classes_are_trained_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "360 images, 2 classes" in unlabelled(here, capsys)
    file = here / "tracks/mine/params.yaml"
    tree = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    options = {"train": "photos", "evaluate": "labelled", "size": 48, "channels": 3}
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15, "unlabelled": 1.0}
    assert tree["data"] == {"source": "folder", "options": options, "splits": shares, "seed": 0}
    # The supervised control has the labelled images alone.
    assert tree["training"]["batch_size"] <= 42 / 4


def test_images_without_classes_are_built_and_planned(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlabelled(here, capsys)
    check_cells(written(here), 42, 48)
    assert parser.main(["data", "mine"]) == 0
    assert "unlabelled 300" in capsys.readouterr().out


def test_copies_among_images_without_classes_are_built(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, count in (("train", 30), ("test", 10)):
        draw(here / "labelled" / split, {"a": count, "b": count})
    draw(here / "photos", {".": 50})
    shutil.copytree(here / "labelled/test/a", here / "photos/copies")
    new(capsys, "--images", "photos", "--evaluate", "labelled")
    assert parser.main(["data", "mine"]) == 0
    assert "train 51, validation 9, test 20, unlabelled 50" in capsys.readouterr().out


# --- the whole path


def call(root: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=root, env=tiny.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def prepared(root: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """A git repository with images and a track of them; the commands that `new` prints."""
    tiny.draw_images(root / "images")
    shutil.copy(tiny.PROJECT / "components.json", root)
    call(root, "git", "init", "-q")
    call(root, "dvc", "init", "-q")
    lines = new(capsys, "--images", "images").splitlines()
    commands = (line.partition("  ")[0] for line in lines if line.startswith("uv run "))
    return [command.removeprefix("uv run ").split() for command in commands]


def test_from_images_to_a_table(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an edit; only the training runs are shortened."""
    monkeypatch.setattr(track, "LENGTHS", (640, 640))
    listing, first, fair = prepared(here, capsys)
    assert fair == ["dvc", "repro", "tracks/mine/sweep/dvc.yaml"]
    planned = call(here, "python", "-m", *listing)
    assert "10 cells, 10 to train" in planned
    call(here, *first)
    assert call(here, "python", "-m", *listing).count(" done") == 10
    table = json.loads((here / "results/mine/leaderboard.json").read_text(encoding="utf-8"))
    rows = {(row["method"], row["scheme"]) for row in table["rows"]}
    trained = {(m, s) for m in ("simclr", "supervised", "untrained") for s in ("bn", "ln", "gn")}
    assert rows == trained | {("raw-pixels", "none")}
    assert all(row["complete"] for row in table["rows"])


@pytest.mark.slow
def test_from_images_to_the_fair_table(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one row, with three trials of its rate."""
    monkeypatch.setattr(track, "LENGTHS", (640, 640))
    prepared(here, capsys)
    file = here / "tracks/mine/params.yaml"
    yaml = YAML(typ="safe", pure=True)
    tree = yaml.load(file.read_text(encoding="utf-8"))
    tree["sweep"] |= {"seeds": [100], "learning_rates": 3, "extensions": 0}
    row = {"methods": ["simclr"], "backbones": ["resnet"], "schemes": ["bn"]}
    tree["experiments"]["tuned"] |= row
    with file.open("w", encoding="utf-8") as opened:
        yaml.dump(tree, opened)
    call(here, "dvc", "repro", "tracks/mine/sweep/dvc.yaml")
    (found,) = json.loads((here / "results/mine/tuned.json").read_text(encoding="utf-8"))["rows"]
    assert found["complete"]
    assert (here / "results/mine/rates/tuned.json").is_file()


def test_stages_watch_the_params_that_their_commands_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of a track of ours do: the same keys, for the same stages."""
    draw(here / "images", {"a": 30, "b": 30})
    new(capsys, "--images", "images")
    yaml = YAML(typ="safe", pure=True)

    def watched(file: Path, name: str) -> dict[str, Any]:
        text = file.read_text(encoding="utf-8").replace(name, "NAME")
        stages = yaml.load(text)["stages"]
        flat = {stage: entry.get("do", entry) for stage, entry in stages.items()}
        found = {}
        for stage, entry in flat.items():
            found[stage] = {
                file: sorted(keys)
                for given in entry.get("params", ())
                for file, keys in given.items()
            }
        return found

    ours = watched(tiny.PROJECT / "tracks/cifar10/dvc.yaml", "cifar10")
    theirs = watched(here / "tracks/mine/dvc.yaml", "mine")
    for stage in ("train", "leaderboard"):
        assert theirs[stage] == ours[stage], stage
