"""Each tutorial, followed to the letter: its files, its lines of params, its commands.

What is shortened are the training runs; the images and networks are those of the tiny project.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from benchmark.cli import parser
from benchmark.components import plugins, registry
from benchmark.data.load import load
from benchmark.execution import local
from tests.helpers import tiny, warm

PAGES = tiny.PROJECT / "docs" / "tutorials"
STEPS = 12
SUFFIXES = {"python": "py", "yaml": "yaml"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = {language: re.compile(rf"`([\w/]+\.{end})`") for language, end in SUFFIXES.items()}


class Reader:
    """Somebody who does in a project what a page says."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.capsys = root, capsys
        self.tree = tiny.raw()
        self.said = ""

    def follow(self, page: str) -> None:
        """Goes through the blocks of code; one without a language is for reading."""
        text = (PAGES / page).read_text(encoding="utf-8")
        done = set()
        for block in BLOCK.finditer(text):
            language, content = block.groups()
            if language in FILE:
                # The file that the page names last before the block.
                self.write(FILE[language].findall(text[: block.start()])[-1], content)
            elif language == "sh":
                self.said = "".join(self.run(line) for line in content.splitlines())
            elif language == "text":
                assert content == "".join(f"{x.rstrip()}\n" for x in self.said.splitlines())
            done.add(language)
        assert done >= {"python", "yaml", "sh", "text"}

    def write(self, file: str, lines: str) -> None:
        """A file of code as it is; params with the lines added or in the place of others."""
        path = self.root / file
        if path.suffix == ".py":
            path.write_text(lines, encoding="utf-8")
            return
        self.tree = tree = merged(self.tree, YAML(typ="safe", pure=True).load(lines))
        most = STEPS * tree["training"]["batch_size"]
        for recipe in tree["methods"].values():
            seen = recipe.get("images_seen")
            if isinstance(seen, dict):
                recipe["images_seen"] = {name: min(count, most) for name, count in seen.items()}
            elif seen is not None:
                recipe["images_seen"] = min(seen, most)
        assert path.name == "params.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        tiny.write_params(path.parent, tree)

    def run(self, line: str) -> str:
        """What a command printed."""
        words = shlex.split(line)
        variables = {}
        while "=" in words[0]:
            name, value = words.pop(0).split("=")
            variables[name] = value
        program, arguments = words[2], words[3:]
        assert words[:2] == ["uv", "run"]
        self.capsys.readouterr()
        if program == "benchmark":
            assert parser.main(arguments) == 0, self.capsys.readouterr().err
            return self.capsys.readouterr().out
        assert program == "pytest"
        # The project's tests, on a file that lies elsewhere.
        variables[plugins.VARIABLE] = str(self.root / variables[plugins.VARIABLE])
        done = warm.run_pytest(arguments, tiny.environment() | variables)
        assert done.returncode == 0, done.stdout
        return done.stdout


def merged(tree: Any, more: Any) -> Any:
    """A tree with another's entries added to its own, key by key; an empty one replaces."""
    if not isinstance(tree, dict) or not isinstance(more, dict) or not more:
        return copy.deepcopy(more)
    return tree | {key: merged(tree.get(key), value) for key, value in more.items()}


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Reader:
    """In a project folder with images and nothing built, on one core of a CPU."""
    tiny.draw_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    for name in (plugins.VARIABLE, "BENCHMARK_HOME", "BENCHMARK_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(local, "cores", lambda: 1)
    return Reader(tmp_path, capsys)


def table(
    root: Path, track: str = "mini", experiment: str = "first-look"
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The rows of the table that every tutorial ends in, by method and scheme."""
    path = root / "results" / track / f"{experiment}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert path.with_suffix(".md").is_file()
    return {(row["method"], row["scheme"]): row for row in rows}


def components(root: Path, cell: str) -> dict[str, Any]:
    """What the published record of a cell says it was made of."""
    file = root / "results/mini/records/first-look" / cell.split("-")[0] / f"{cell}.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))["record"]["components"])


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_backbone(reader: Reader) -> None:
    reader.follow("backbone.md")
    rows = table(reader.root, experiment="mixers")
    assert set(rows) == {("simclr-short", "bn"), ("simclr-short", "ln")}
    records = reader.root / "results/mini/records"
    cells = [path.stem for path in sorted(records.rglob("*.json"))]
    assert cells == [
        "simclr-short-mobilenet-bn-gn-last-s0", "simclr-short-mobilenet-bn-s0",
        "simclr-short-mixer-bn-s0", "simclr-short-mixer-ln-s0",
    ]  # fmt: skip
    parts = [{"sites": "stage[56]", "norm": "gn", "groups": 8}]
    found = json.loads(next(records.rglob("*gn-last-s0.json")).read_text(encoding="utf-8"))[
        "record"
    ]
    assert found["cell"]["norms"]["backbone"] == {"norm": "bn", "parts": parts}
    assert found["cell"]["backbone"]["architecture"] == "mobilenetv3_small_050"
    assert found["status"] == "done"


def test_norm(reader: Reader) -> None:
    reader.follow("norm.md")
    rows = table(reader.root)
    assert set(rows) == {("simclr", scheme) for scheme in ("ln", "scale-norm")}
    assert all(row["complete"] for row in rows.values())
    assert len({row["knn_reestimated"]["mean"] for row in rows.values()}) > 1
    used = components(reader.root, "simclr-resnet-scale-norm-s0")
    assert used["norm scale-norm"] == 1
    assert used["norm scale-norm file"] == sha256(reader.root / "scale_norm.py")
    # A comment makes another file of it.
    with (reader.root / "scale_norm.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    for cache in (plugins.found, registry._with_plugins):
        cache.cache_clear()
    said = reader.run("uv run benchmark --plugin scale_norm.py plan --experiment first-look")
    states = {line.split()[0].split("/")[-1]: line.split()[1] for line in said.splitlines()[:2]}
    assert states == {
        "simclr-resnet-ln-s0": "done",
        "simclr-resnet-scale-norm-s0": "stale",
    }


def test_method(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    reader.follow("method.md")
    rows = table(reader.root)
    for scheme in ("bn", "gn"):
        assert rows["tico", scheme]["complete"]
    assert ("raw-pixels", "none") in rows
    used = components(reader.root, "tico-resnet-gn-s0")
    assert used["method tico file"] == sha256(reader.root / "tico.py")
    assert "norm gn file" not in used
    monkeypatch.setenv(plugins.VARIABLE, str(reader.root / "tico.py"))
    agrees_with_lightly()


def agrees_with_lightly() -> None:
    """The loss of three steps, with what they leave behind, is that of the library."""
    from lightly.loss import TiCoLoss

    from tests.helpers import small

    method: Any = (
        small.build("tico", "resnet", "ln", training={"teacher": still()}).double().train()
    )
    example = registry.facts("method", "tico")["example"]
    loss = TiCoLoss(example["beta"], example["rho"])
    for step in range(3):
        given = small.batch("tico", step)
        given = given._replace(views=[view.double() for view in given.views])
        small.stir(method, step)
        with torch.no_grad():
            first = method.projector(method.backbone(given.views[0]))
            second = method.teacher.network(given.views[1])
        torch.testing.assert_close(method(given).loss.detach(), loss(first, second))


def still() -> dict[str, Any]:
    return {"statistics": "batch", "shuffle": False}


def test_dataset(reader: Reader) -> None:
    from sklearn.datasets import load_digits

    reader.follow("dataset.md")
    rows = table(reader.root, "digits")
    assert set(rows) == {("simclr", "bn"), ("simclr", "gn"), ("raw-pixels", "none")}
    assert all(row["complete"] for row in rows.values())
    # Digits are easy for raw pixels; were images and labels mixed up, they would be hard.
    assert rows["raw-pixels", "none"]["knn_reestimated"]["mean"] > 0.9
    names = ("train", "validation", "test")
    built = load(reader.root / "data/digits", names).images
    images = torch.cat([built[name][:] for name in names])
    assert images.shape == (1797, 1, 8, 8)
    theirs = torch.from_numpy(load_digits().images).sum((1, 2)).sort().values
    ours = (images.double() * 16 / 255).sum((1, 2, 3)).sort().values
    torch.testing.assert_close(ours, theirs, atol=0.5, rtol=0.01)
    assert os.environ.get(plugins.VARIABLE) is None
