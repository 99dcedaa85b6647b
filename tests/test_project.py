"""The project's own files say what is true of it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import canonical, commands

ROOT = Path(__file__).parents[1]


def test_dvc_watches_the_versions_of_today():
    written = (ROOT / "components.json").read_text(encoding="utf-8")
    assert written == canonical.pretty(commands.component_versions()), (
        "run `uv run benchmark components`"
    )


def test_the_lock_names_only_the_public_index():
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    sources = set(re.findall(r"^source = \{(.*)\}$", lock, re.MULTILINE))
    assert sources == {' registry = "https://pypi.org/simple" ', ' editable = "." '}
    assert set(re.findall(r'url = "(https://[^/]+)/', lock)) == {"https://files.pythonhosted.org"}


def test_the_readme_shows_the_published_numbers():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = json.loads((ROOT / "results/mini/leaderboard.json").read_text(encoding="utf-8"))
    means = {
        (row["method"], row["family"], row["scheme"]): 100 * row["knn"]["mean"]
        for row in table["rows"]
    }
    shown = 0
    for line in readme.splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        if len(cells) != 7 or not re.fullmatch(r"\d+\.\d", cells[1]):
            continue
        method = cells[0].split("`")[1]
        for place, (family, scheme) in enumerate(
            (family, scheme) for family in ("resnet", "vit") for scheme in ("bn", "ln", "gn")
        ):
            assert cells[1 + place] == f"{means[method, family, scheme]:.1f}", (
                method,
                family,
                scheme,
            )
            shown += 1
    assert shown == 6 * 6, "the README's table has six methods by six columns"
    assert f"{means['raw-pixels', 'pixels', 'none']:.1f} %" in readme


@pytest.mark.parametrize("page", ["README.md", "docs/extending.md"])
def test_the_norm_that_the_documentation_adds_takes_part(page: str, tmp_path: Path):
    text = (ROOT / page).read_text(encoding="utf-8")
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "RmsNorm" in block
    )
    shutil.copytree(ROOT / "benchmark", tmp_path / "benchmark")
    (tmp_path / "benchmark/norms/rms.py").write_text(code, encoding="utf-8")
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    params = params.replace("schemes:\n  bn:", "schemes:\n  rms: {norm: rms}\n  bn:", 1)
    params = params.replace("schemes: [bn, ln, gn]", "schemes: [rms]")
    params = params.replace("rates: tuned", "rates: default")
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    planned = run(tmp_path, "-m", "benchmark", "plan")
    assert "mini/leaderboard/simclr-vit-rms-s1" in planned
    program = """
        from pathlib import Path
        from benchmark import params, plan, runtime
        runtime.start("cpu")
        import torch
        from benchmark.training import network
        manifest = {"shape": [1, 28, 28], "classes": list("abcdefghij"),
                    "splits": {"train": {"count": 4000}}}
        for cell in plan.cells(params.read(Path("params.yaml")), "leaderboard", None):
            if cell.scheme == "rms" and cell.seed == 0:
                method = network.build(cell, manifest)
                assert any("RmsNorm" in type(m).__name__ for m in method.modules()), cell.name
                assert method.backbone(torch.rand(4, 1, 28, 28)).isfinite().all()
                print(cell.label)
    """
    built = run(tmp_path, "-c", "\n".join(line[8:] for line in program.splitlines()))
    assert "mae-resnet-rms-s0" in built


def run(folder: Path, *arguments: str) -> str:
    # The folder's own copy of the package comes first on the path.
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
