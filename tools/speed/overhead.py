"""What DVC, MLflow, plans and tables cost around the training runs, with made-up records."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmark.config import params as reading
from benchmark.core.errors import UserError
from benchmark.planning import plan, rate_table
from benchmark.planning.cell import Cell, tasks
from benchmark.planning.images import dataset_checksum
from benchmark.results import published
from benchmark.results.records import Record, RunLog, Store

PATTERN = Path("results/mini/records/length/simclr/simclr-resnet-bn-s0.json")
"""The published record that the made-up ones are like."""


def measure(root: Path) -> list[dict[str, Any]]:
    """Wall and CPU seconds of each command, its subprocesses included, in a copy of the project.

    The pipeline with 300 cells that are found trained; then `plan` and `leaderboard` with 3,000.
    UserError where the project is not a git checkout.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-speed-") as folder:
        copy = Path(folder) / "project"
        done = subprocess.run(
            ["git", "clone", "--quiet", str(root), str(copy)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UserError(f"{root} cannot be cloned: {done.stderr.strip()}")
        return list(_measured(copy))


def _measured(root: Path) -> Iterator[dict[str, Any]]:
    dvc = [shutil.which("dvc", path=str(Path(sys.executable).parent)) or "dvc"]
    verb = [sys.executable, "-m", "benchmark"]
    pattern = published.read(root / PATTERN).record
    # What is published would be found to differ from the made-up records of the same cells.
    for of in ("records", "provenance"):
        shutil.rmtree(root / "results" / "mini" / of)
    _run([*verb, "data", "mini"], root)
    count = _fill(root, 300, pattern)
    took = _run([*dvc, "repro", "--quiet"], root)
    yield {"what": f"`dvc repro`, {count} cells found trained, MLflow included", **took}
    yield {"what": "of this for each cell", **{key: took[key] / count for key in took}}
    _run([*dvc, "repro", "--quiet"], root)
    yield {"what": "`dvc repro` with nothing to do", **_run([*dvc, "repro", "--quiet"], root)}
    count = _fill(root, 3000, pattern)
    _run([*verb, "train"], root)
    yield {"what": f"`benchmark plan`, {count} cells", **_run([*verb, "plan"], root)}
    yield {
        "what": f"`benchmark leaderboard`, {count} records",
        **_run([*verb, "leaderboard"], root),
    }


def _run(command: list[str], root: Path) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    environment |= {"BENCHMARK_HOME": str(root / ".benchmark"), "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": used}


def _fill(root: Path, least: int, pattern: Record) -> int:
    """Gives the leaderboard enough seeds for `least` cells, and the store a record of each."""
    yaml = YAML()
    file = root / "params.yaml"
    tree = yaml.load(file.read_text(encoding="utf-8"))
    grid = tree["experiments"]["leaderboard"]
    settings = rate_table.settings(rate_table.load(rate_table.path(root, "mini", "leaderboard")))
    seeds, cells = 2, list[Cell]()
    while len(cells) < least:
        # Far from the sweep's own seeds, which an experiment may not report.
        grid["seeds"] = list(range(1000, 1000 + seeds))
        with file.open("w", encoding="utf-8") as target:
            yaml.dump(tree, target)
        params = reading.read(file)
        cells = plan.cells(params, "leaderboard", settings)
        seeds = max(seeds + 1, seeds * least // len(cells))
    store = Store(root / ".benchmark")
    dataset = dataset_checksum(root, params)
    for task in tasks(cells, dataset):
        dice = random.Random(task.cell.label)
        metrics = {
            key: value + dice.gauss(0, 0.01) if type(value) is float else value
            for key, value in pattern.result.metrics.items()
        }
        result = pattern.result.model_copy(update={"metrics": metrics})
        store.put(Record.of(task, pattern.environment, "done", result), RunLog())
    return len(cells)
