"""Components in a file of the user's, or in somebody's package, are held to what ours are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.cli import components, parser
from benchmark.components import plugins, registry
from benchmark.components.facts import KINDS, check_facts
from benchmark.core.errors import UserError
from benchmark.execution.cell import run as run_cell
from benchmark.norms.factory import SectionNorms
from benchmark.planning import plan
from benchmark.planning.cell import Cell
from benchmark.results.records import Store
from tests.helpers import tiny

FACTS: dict[str, Any] = {
    "kind": "norm",
    "name": "halving",
    "version": 1,
    "options": {"by": "float > 0"},
    "example": {"by": 2.0},
    "batch_dependent": False,
}
BODY = """
from dataclasses import dataclass
from torch import nn

class Halving(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x / self.by

@dataclass
class Note:
    text: str

def build(name, site, by):
    return Halving(by)
"""


METHOD: dict[str, Any] = {
    "kind": "method",
    "name": "mine",
    "version": 1,
    "title": "Mine",
    "views": 1,
    "sections": ["backbone"],
    "teacher": False,
    "options": {},
}


def write(path: Path, facts: Any = FACTS, body: str = BODY) -> Path:
    path.write_text(f"COMPONENT = {facts!r}\n{body}", encoding="utf-8")
    return path


def without(*keys: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in FACTS.items() if key not in keys} | more


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder to stand in whose only scheme is that of a plug-in not yet written."""
    tree = tiny.raw()
    tree["schemes"]["half"] = {"norm": "halving", "by": 2}
    tree["experiments"]["leaderboard"] |= {"methods": ["simclr"], "schemes": ["half"]}
    tiny.write_params(tmp_path, tree)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    monkeypatch.delenv("BENCHMARK_HOME", raising=False)
    return tmp_path


# --- a file


@pytest.mark.parametrize("way", ["before the verb", "after the verb", "variable"])
def test_a_file_takes_part_however_it_is_named(
    here: Path, way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "mine.py")
    assert "unknown norm 'halving'" in tiny.refusal(capsys, "plan")
    named = {"before the verb": ["--plugin", "mine.py"], "after the verb": []}.get(way, [])
    after = ["--plugin", "mine.py"] if way == "after the verb" else []
    if way == "variable":
        monkeypatch.setenv(plugins.VARIABLE, "mine.py")
    assert parser.main([*named, "plan", *after]) == 0
    assert "mini/leaderboard/simclr-resnet-half-s0" in capsys.readouterr().out
    assert os.environ.get(plugins.VARIABLE) == ("mine.py" if way == "variable" else None)


def test_the_option_adds_to_the_variable(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(here / "one.py", without(name="first"))
    write(here / "two.py", without(name="second"))
    monkeypatch.setenv(plugins.VARIABLE, f"one.py{os.pathsep}{one}{os.pathsep}")
    with plugins.added(["two.py"]):
        assert os.environ[plugins.VARIABLE] == f"{one}{os.pathsep}{here / 'two.py'}"
        assert {"first", "second", "bn"} <= set(registry.catalogue("norm"))
    assert "second" not in registry.catalogue("norm")


def test_a_list_of_components_of_several_kinds(here: Path) -> None:
    source = {"kind": "source", "name": "noise", "version": 3, "options": {}}
    with plugins.added([str(write(here / "mine.py", [FACTS, source]))]):
        assert "halving" in registry.catalogue("norm")
        assert registry.facts("source", "noise")["version"] == 3


def test_what_is_loaded_can_be_found_again_by_its_module(here: Path) -> None:
    with plugins.added([str(write(here / "mine.py"))]):
        layer = SectionNorms("backbone", {"norm": "halving", "by": 4.0}).layer("vector", 8)
        assert torch.equal(layer(torch.full((2, 8), 4.0)), torch.ones(2, 8))
        module = registry.load("norm", "halving")
    assert type(layer) is module.Halving
    assert sys.modules[type(layer).__module__] is module
    # Two files may share a name.
    (here / "other").mkdir()
    with plugins.added([str(write(here / "other" / "mine.py", without(name="other")))]):
        assert registry.load("norm", "other") is not module
    assert not list(here.rglob("__pycache__"))


def test_plug_ins_are_not_among_the_versions_that_dvc_watches(here: Path) -> None:
    before = components.component_versions()
    with plugins.added([str(write(here / "mine.py"))]):
        assert components.component_versions() == before
        assert parser.main(["components"]) == 0
    assert "halving" not in (here / "components.json").read_text(encoding="utf-8")


def test_facts_of_a_plug_in_are_read_without_running_it(here: Path) -> None:
    write(here / "mine.py", body="raise SystemExit\n")
    script = (
        "import sys; from benchmark.cli.parser import main; "
        "code = main(['plan', '--plugin', 'mine.py']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=here, env=tiny.environment(), check=False
    )
    assert done.returncode == 0


def test_an_option_with_a_default_need_not_be_given(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny.raw()
    tree["schemes"]["half"] = {"norm": "halving"}
    tree["experiments"]["leaderboard"] |= {"methods": ["simclr"], "schemes": ["half"]}
    with plugins.added([str(write(here / "mine.py"))]), pytest.raises(UserError, match="'by'"):
        tiny.params(tree)
    facts = without("example", defaults={"by": 2.0}, example={})
    with plugins.added([str(write(here / "other.py", facts))]):
        cell = tiny_cell_of(tree)
        spec = cell.config.norms["backbone"].as_json()
        assert spec == {"norm": "halving"}
        layer = SectionNorms("backbone", spec).layer("vector", 8)
        assert torch.equal(layer(torch.full((2, 8), 4.0)), torch.full((2, 8), 2.0))
        tree["schemes"]["half"]["by"] = 4.0
        spec = tiny_cell_of(tree).config.norms["backbone"].as_json()
        assert spec == {"norm": "halving", "by": 4.0}


def tiny_cell_of(tree: dict[str, Any]) -> Cell:
    (cell,) = plan.cells(tiny.params(tree), "leaderboard", None)
    return cell


# --- what is refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "mine.py: no such file"),
        ("COMPONENT = {\n", "mine.py: not Python: line 1"),
        ("\0", "mine.py: not Python"),
        ("\xff", "mine.py: states no COMPONENT"),
        ("x = 1\n", "mine.py: states no COMPONENT"),
        ("COMPONENT = []\n", "mine.py: states no COMPONENT"),
        ("COMPONENT = 3\n", "mine.py: states no COMPONENT"),
        ("COMPONENT = make()\n", "mine.py: COMPONENT is not a literal"),
        (without("kind"), "lacks 'kind' (one of norm, method, source, backbone, optimizer)"),
        (without(kind="nrom"), "unknown kind of plug-in"),
        (without(kind="nrom"), "did you mean 'norm'"),
        (without(kind=["norm"]), "unknown kind of plug-in"),
        (
            without("version", "batch_dependent"),
            "COMPONENT: key 'version' is missing",
        ),
        (without(kind="method"), "'batch_dependent'"),
        (without(activate=True), "'activate'; did you mean 'activates'"),
        (without(version="1"), "version is '1': input should be a valid integer"),
        (without(batch_dependent=1), "batch_dependent is 1: input should be a valid boolean"),
        (without(normalizes=True), "unknown key 'normalizes'"),
        (without(defaults=3), "defaults is 3"),
        (without(defaults={"by": -1.0}), "defaults: by is -1.0, expected float > 0"),
        (without(defaults={"byy": 1.0}), "'byy'; did you mean 'by'"),
        (without(name="a/b"), "name is 'a/b'"),
        (without(name=3), "name is 3"),
        (without(options=[]), "options is []"),
        (without(options={"by": "number"}), "by is described as 'number'"),
        (without(options={"by": 3}), "by is described as 3"),
        (without(example={}), "example: option 'by' is missing"),
        (without(example=1), "example is 1"),
        (without(example={"by": -1}), "example: by is -1, expected float > 0"),
        (without(options={"by": "list of number"}), "by is described as 'list of number'"),
        (without(options={"by": "range of number"}), "by is described as 'range of number'"),
        (without(options={"by": "int >= 1.2.3"}), "by is described as 'int >= 1.2.3'"),
        (without(options={"norm": "int >= 1"}), "'norm' cannot be an option"),
        (without(options={"model": "int >= 1"}), "'model' cannot be an option"),
        (METHOD | {"sections": []}, "sections is []: what is trained has a backbone"),
        (METHOD | {"sections": ["projector"]}, "what is trained has a backbone"),
        (METHOD | {"largest_share": {"queue": 0.5}}, "unknown option of plug-in"),
        (
            METHOD | {"options": {"queue": "int >= 1"}, "largest_share": {"queue": 2}},
            "largest_share.queue is 2: input should be less than or equal to 1",
        ),
        (
            METHOD
            | {"options": {"queue": "int >= 1"}, "multiple_of_batch": {"queue": ["symetric"]}},
            "unknown option of plug-in",
        ),
        (METHOD | {"whole_batch_loss": {"norm": ["batch"]}}, "unknown option of plug-in"),
        (METHOD | {"repeats": ["turns"]}, "unknown option of plug-in"),
        (without(sample_groups=True), "sample_groups needs the options groups and assignment"),
        (without(divides_batch="by"), "divides_batch is 'by': input should be a valid list"),
        ("COMPONENT = {{1: 2}: 3}\n", "COMPONENT is not a literal"),
        ("COMPONENT = {{'kind': 'norm'}}\n", "COMPONENT is not a literal"),
        (without(branch="skip"), "branch is 'skip': input should be 'skipinit'"),
        (without(name="gn"), "the norm 'gn' is already defined by benchmark.norms.group"),
        ([FACTS, FACTS], "the norm 'halving' is already defined by plug-in"),
        (["halving"], "states no COMPONENT"),
    ],
    ids=str,
)
def test_a_file_that_is_no_plug_in_is_refused_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], content: Any, said: str
) -> None:
    if isinstance(content, str):
        (here / "mine.py").write_text(content, encoding="utf-8")
    elif content is not None:
        write(here / "mine.py", content)
    # By verbs that never look at a norm, too.
    for verb in ("plan", "components"):
        assert said in tiny.refusal(capsys, "--plugin", "mine.py", verb)
    assert not (here / "components.json").exists()


def test_what_is_not_a_python_file_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "mine.txt")
    (here / "folder.py").mkdir()
    assert "expected a Python file" in tiny.refusal(capsys, "plan", "--plugin", "mine.txt")
    assert "cannot be read" in tiny.refusal(capsys, "plan", "--plugin", "folder.py")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("\n\nimport nothing_of_this_name\n", "line 4: ModuleNotFoundError: No module named"),
        ("def f():\n    return 1 / 0\n\nf()\n", "line 3: ZeroDivisionError"),
        ("return 3\n", "line 2: SyntaxError: 'return' outside function"),
        ("", "has no function 'build'"),
        ("build = 3\n", "has no function 'build'"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_refused(here: Path, body: str, said: str) -> None:
    with (
        plugins.added([str(write(here / "mine.py", body=body))]),
        pytest.raises(UserError, match=r"^plug-in [^\n]*mine\.py: [^\n]*$") as refused,
    ):
        registry.load("norm", "halving")
    assert said in str(refused.value)


def test_a_file_that_changed_since_the_facts_were_read_is_refused(here: Path) -> None:
    with plugins.added([str(write(here / "mine.py"))]):
        cell = tiny_cell(here)
        registry.check_unchanged(cell.components)
        write(here / "mine.py", body=BODY.replace("x / self.by", "x * self.by"))
        with pytest.raises(UserError, match="changed since this command began"):
            registry.load("norm", "halving")
        # As a worker that starts only now finds it.
        plugins.found.cache_clear()
        registry._with_plugins.cache_clear()
        with pytest.raises(UserError, match="changed since the cell was planned"):
            run_cell(cell.on("images"), here, Store(here), torch.device("cpu"), lambda *_: True)


def tiny_cell(root: Path) -> Cell:
    from benchmark.config.params import read

    (cell,) = plan.cells(read(root / "params.yaml"), "leaderboard", None)
    return cell


# --- what a plug-in is part of


def test_a_fingerprint_has_the_version_and_the_bytes_of_a_file(here: Path) -> None:
    cells: list[Cell] = []
    for facts, body in [(FACTS, BODY), (FACTS, BODY + "\n"), (without(version=2), BODY)]:
        path = write(here / f"mine{len(cells)}.py", facts, body)
        with plugins.added([str(path)]):
            cells.append(tiny_cell(here))
    assert cells[0].components["norm halving"] == cells[1].components["norm halving"] == 1
    assert cells[2].components["norm halving"] == 2
    assert len({cell.components["norm halving file"] for cell in cells}) == 3
    assert len({cell.on("images").fingerprint for cell in cells}) == 3
    # Not where it lies: the same file elsewhere is the same norm.
    (here / "elsewhere").mkdir()
    with plugins.added([str(write(here / "elsewhere" / "renamed.py"))]):
        assert tiny_cell(here).on("images").fingerprint == cells[0].on("images").fingerprint


def test_the_remedy_for_records_of_a_plug_in_is_one_that_dvc_obeys(here: Path) -> None:
    """DVC does not watch a plug-in: without `--force` it takes the old records for current."""
    with plugins.added([str(write(here / "mine.py"))]):
        used = tiny_cell(here).components
        assert plan.train_command("mini", "leaderboard", used) == "uv run dvc repro --force"
        assert (
            plan.train_command("own", "leaderboard", used)
            == "uv run dvc repro --force tracks/own/dvc.yaml"
        )
        assert (
            plan.train_command("mini", "long", used) == "uv run benchmark train --experiment long"
        )
        ours = {key: version for key, version in used.items() if "halving" not in key}
        assert plan.train_command("mini", "leaderboard", ours) == "uv run dvc repro"


def test_every_component_of_ours_would_pass_as_a_plug_in() -> None:
    assert set(KINDS) == set(registry.FOLDERS)
    for kind in registry.FOLDERS:
        for name, facts in registry.own(kind).items():
            stated = {key: value for key, value in facts.items() if key != "module"}
            check_facts(name, kind, stated)
            example = facts.get("example", {})
            assert facts["options"].keys() == {**facts.get("defaults", {}), **example}.keys(), (
                f"{kind} {name}: `example` must have a value of each option without a default"
            )


def test_images_of_another_source_file_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = (
        "import torch\nfrom benchmark.data.pool import Pool\n\ndef read(options, cache):\n"
        "    images = torch.arange(240).to(torch.uint8).view(60, 1, 2, 2)\n"
        "    labels = torch.arange(60) % 2\n"
        "    return Pool(images, labels, {'all': torch.arange(60)}, ('even', 'odd'))\n"
    )
    facts = {"kind": "source", "name": "counting", "version": 1, "options": {}}
    splits = {"train": 40, "validation": 10, "test": 10}
    tree = tiny.raw()
    tree["data"] |= {"source": "counting", "options": {}, "splits": splits}
    tree["training"]["batch_size"] = tree["evaluation"]["precise_bn_batch_size"] = 4
    tiny.write_params(here, tree)
    write(here / "counting.py", facts, body)
    assert parser.main(["data", "--plugin", "counting.py"]) == 0
    assert parser.main(["--plugin", "counting.py", "plan"]) == 0
    assert "run `benchmark data" not in capsys.readouterr().out
    manifest = json.loads((here / "data/mini/manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["name"] == "counting"
    write(here / "counting.py", facts, body + "# another\n")
    plugins.found.cache_clear()
    registry._with_plugins.cache_clear()
    line = tiny.refusal(capsys, "--plugin", "counting.py", "train")
    assert "sha256 of the plug-in is" in line
    assert "run `uv run benchmark data mini`" in line


# --- a package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as packages are installed into, with one that has a norm and no more."""
    site = tmp_path / "site"
    (site / "their_package" / "layers").mkdir(parents=True)
    for folder in ("their_package", "their_package/layers"):
        (site / folder / "__init__.py").write_text("raise SystemExit('run')\n")
    write(site / "their_package" / "layers" / "halving.py")
    announce(site, "their_package.layers.halving")
    return site


def announce(site: Path, value: str) -> None:
    folder = site / "their_package-2.5.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 2.5\n")
    (folder / "entry_points.txt").write_text(f"[benchmark.components]\nhalving = {value}\n")


def run(root: Path, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False,
        env=tiny.environment() | {"PYTHONPATH": os.pathsep.join(paths).rstrip(os.pathsep)},
    )  # fmt: skip


def test_a_package_takes_part_and_is_not_run_before_it_is_used(here: Path, package: Path) -> None:
    script = (
        "from pathlib import Path; "
        "from benchmark.config import params; from benchmark.planning import plan; "
        "cell, = plan.cells(params.read(Path('params.yaml')), 'leaderboard', None); "
        "print(cell.name, sorted(key for key in cell.components if 'halving' in key))"
    )
    done = run(here, package, "-c", script)
    assert done.stdout == "mini/leaderboard/simclr-resnet-half-s0 ['norm halving']\n", done.stderr
    for folder in ("their_package", "their_package/layers"):
        (package / folder / "__init__.py").write_text("")
    script = (
        "from benchmark.components import registry; "
        "print(registry.load('norm', 'halving').build('', None, 2))"
    )
    done = run(here, package, "-c", script)
    assert done.stdout == "Halving()\n", done.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("their_package.layers.gone", "no such module is installed"),
        ("their_package.gone.halving", "no such module is installed"),
        ("gone", "no such module is installed"),
        ("their_package.layers.halving:build", "no such module is installed"),
        ("their_package.layers", "states no COMPONENT"),
        ("sys", "no such module is installed"),
    ],
)
def test_a_package_that_announces_what_it_has_not_is_refused(
    here: Path, package: Path, value: str, said: str
) -> None:
    announce(package, value)
    done = run(here, package, "-m", "benchmark", "components")
    assert done.returncode == 2
    assert done.stderr.startswith(f"benchmark: plug-in {value} (their-package): {said}")
    assert done.stderr.count("\n") == 1


def test_a_home_that_nobody_has_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "plug-in ~nosuchuser/x.py" in tiny.refusal(
        capsys, "--plugin", "~nosuchuser/x.py", "plan"
    )


BUILDS = [
    ("def build(name, site): return None", "build() got an unexpected keyword argument"),
    ("def build(name, site, by): return 3", "not an nn.Module"),
    ("def build(name, site, by): return site.nothing", "line 3: AttributeError"),
    ("def build(name, site, by): raise ValueError('no\\nsuch site')", "no such site"),
]


@pytest.mark.parametrize(("build", "said"), BUILDS, ids=[said for _, said in BUILDS])
def test_a_plug_in_that_builds_nothing_is_refused_in_one_line_before_any_training(
    tmp_path: Path, build: str, said: str
) -> None:
    tree = tiny.raw()
    tree["schemes"]["mine"] = {"norm": "halving", "by": 2.0}
    tree["experiments"]["leaderboard"] |= {"schemes": ["mine"], "methods": ["simclr"]}
    root = tiny.project(tmp_path / "project", tree)
    write(root / "mine.py", body=f"\n{build}\n")
    done = tiny.run(root, "--plugin", "mine.py", "train")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert said in line
    assert "mine.py" in line or "norm 'halving'" in line
