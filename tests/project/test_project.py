"""The project's own files say what is true of it."""

import hashlib
import json
import re
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from benchmark.cli import components
from benchmark.config import yaml_file
from benchmark.core import canonical_json

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_dvc_watches_the_versions_of_today():
    written = (ROOT / "components.json").read_text(encoding="utf-8")
    assert written == canonical_json.pretty(components.component_versions()), (
        "run `uv run benchmark components`"
    )


def test_the_lock_names_only_the_public_index():
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    sources = set(re.findall(r"^source = \{(.*)\}$", lock, re.MULTILINE))
    assert sources == {' registry = "https://pypi.org/simple" ', ' editable = "." '}
    assert set(re.findall(r'url = "(https://[^/]+)/', lock)) == {"https://files.pythonhosted.org"}


LOCKS = sorted([ROOT / "dvc.lock", *ROOT.glob("tracks/**/dvc.lock")])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_a_lock_was_made_from_the_parameters_and_files_of_today(lock):
    """Otherwise `dvc repro` changes it in a fresh clone, and its proof is worth nothing."""
    stages = yaml_file.load(lock)["stages"]
    compared = 0
    for name, stage in stages.items():
        for file, values in stage.get("params", {}).items():
            now = yaml_file.load(ROOT / file)
            for dotted, value in values.items():
                assert value == reduce(getitem, dotted.split("."), now), (name, file, dotted)
                compared += 1
        for entry in [*stage.get("deps", []), *stage.get("outs", [])]:
            path = ROOT / entry["path"]
            # Folders, and what only a run makes, are DVC's to compare.
            if path.is_file() and ".benchmark" not in entry["path"]:
                found = hashlib.md5(path.read_bytes()).hexdigest()
                assert found == entry["md5"], f"{name}: {entry['path']} is another file by now"
                compared += 1
    assert compared > len(stages)


def table(name: str = "leaderboard") -> dict[str, dict[str, Any]]:
    """The rows of a published table by what they are called, e.g. `simclr-resnet-bn`."""
    text = (ROOT / "results" / "mini" / f"{name}.json").read_text(encoding="utf-8")
    rows = json.loads(text)["rows"]
    return {f"{row['method']}-{row['backbone']}-{row['scheme']}": row for row in rows}


SCHEMES = ("bn", "gn", "ln", "ln-position", "none-plain", "none-skipinit")
"""The columns of the README's table."""


def percent(row: dict[str, Any]) -> str:
    return f"{100 * row['knn_reestimated']['mean']:.1f}"


def test_the_readme_shows_the_published_numbers():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    published = table()
    lines = re.findall(r"^\| [^|]*\(`(\w+)`\)[^|]* \|(.*)\|$", readme, re.MULTILINE)
    assert [method for method, _ in lines] == ["simclr", "supervised", "untrained"]
    for method, cells in lines:
        for scheme, cell in zip(SCHEMES, cells.split("|"), strict=True):
            row = published[f"{method}-resnet-{scheme}"]
            interval = row["knn_reestimated"]
            half = 100 * (interval["high"] - interval["low"]) / 2
            bold = "**" if row["tied_for_best"] else ""
            assert cell.strip() == f"{bold}{percent(row)} ± {half:.1f}{bold}", (method, scheme)
    assert f"Raw pixels reach {percent(published['raw-pixels-pixels-none'])} %" in readme


def test_the_page_on_confounds_shows_the_published_numbers():
    text = (ROOT / "docs" / "confounds.md").read_text(encoding="utf-8")
    now = table()
    (line,) = re.findall(r"^\| after, the present protocol \|(.*)\|$", text, re.MULTILINE)
    shown = [cell.strip() for cell in line.split("|")]
    assert shown == [percent(now[f"simclr-resnet-{scheme}"]) for scheme in SCHEMES]


def test_the_readme_shows_the_verdicts_of_the_claims():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "results" / "mini" / "claims.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| \[(C\d[ab]?)\]\(\S*#c\d[ab]?\) (.*?) \|$", re.MULTILINE)
    # The page has two columns more.
    judged = {name: rest.rsplit(" | ", 2)[0] for name, rest in row.findall(page)}
    assert dict(row.findall(readme)) == judged
    assert list(judged) == [
        *(f"C{number}" for number in (1, 2)),
        "C3a",
        "C3b",
        *(f"C{n}" for n in range(4, 10)),
    ]


def test_the_norm_that_the_readme_adds_takes_part(tmp_path: Path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "simple.py").write_text(code, encoding="utf-8")
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert "\nschemes:\n" in params
    params = params.replace("\nschemes:\n", "\nschemes:\n  simple: {norm: simple}\n", 1)
    params = params.replace(f"schemes: [{', '.join(SCHEMES)}]", "schemes: [simple]", 1)
    params = params.replace("learning_rates: tuned", "learning_rates: default")
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    planned = run(tmp_path, "-m", "benchmark", "--plugin", "simple.py", "plan")
    assert "mini/leaderboard/simclr-resnet-simple-s1" in planned
    program = """
        from pathlib import Path
        from benchmark.components import plugins
        from benchmark.config import params
        from benchmark.core import determinism
        from benchmark.planning import plan
        determinism.start("cpu")
        import torch
        from benchmark.training import network
        from benchmark.data.manifest import Manifest, Split
        splits = {"train": Split.model_construct(count=4000)}
        classes = tuple("abcdefghij")
        manifest = Manifest.model_construct(shape=(1, 28, 28), classes=classes, splits=splits)
        with plugins.added(["simple.py"]):
            for cell in plan.cells(params.read(Path("params.yaml")), "leaderboard", None):
                if cell.scheme == "simple" and cell.seed == 0:
                    method = network.build(cell, manifest)
                    assert any("SimpleNorm" in type(m).__name__ for m in method.modules())
                    assert method.backbone(torch.rand(4, 1, 28, 28)).isfinite().all()
                    print(cell.label)
    """
    built = run(tmp_path, "-c", "\n".join(line[8:] for line in program.splitlines()))
    assert "supervised-resnet-simple-s0" in built


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        found = page.parent / target if target else page
        assert found.exists(), target
        if anchor:
            there = found.read_text(encoding="utf-8")
            titles = re.findall(r"^#+ (.*)$", there, re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles]
            assert anchor in slugs + re.findall(r'<a id="([^"]+)">', there), anchor


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
