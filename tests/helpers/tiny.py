"""A project that trains in seconds, with made-up images, and ways to run commands in it."""

from __future__ import annotations

import copy
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from benchmark.cli import parser
from benchmark.components import registry
from benchmark.config.params import parse
from benchmark.config.schema import Params
from benchmark.data.manifest import FORMAT, NAMES, Manifest, Split, dataset_checksum
from benchmark.planning.cell import Cell
from benchmark.planning.plan import cells
from benchmark.results.records import Record, Result, Status, Store
from tests.helpers import warm

PROJECT = Path(__file__).parents[2]
BATCH, SIDE = 32, 16
COUNTS = {"train": 160, "validation": 40, "test": 56}
LONG = 1600
"""Steps of the cell that tests interrupt: many seconds, so several checkpoints."""


def real() -> dict[str, Any]:
    """The project's params.yaml, a new copy at each call."""
    return copy.deepcopy(_real())


@functools.cache
def _real() -> dict[str, Any]:
    text = (PROJECT / "params.yaml").read_text(encoding="utf-8")
    return dict(YAML(typ="safe", pure=True).load(text))


def raw() -> dict[str, Any]:
    """Params of the same form as the project's, for networks of a few thousand weights.

    The experiment `leaderboard` has five short cells, of which one diverges; `long` has one.
    """
    found = real()
    found["title"] = "tiny"
    found["data"] = {
        "source": "folder",
        "options": {"path": "images", "size": SIDE, "channels": 1},
        "splits": COUNTS,
        "seed": 0,
    }
    resnet, vit = (found["backbones"][name]["arguments"] for name in ("resnet", "vit"))
    resnet |= {"channels": [8, 8, 16, 16], "stem_stride": 1}
    vit |= {"embed_dim": 16, "depth": 1, "mlp_ratio": 2, "patch_size": 4}
    found["schemes"]["gn"]["groups"] = 4
    found["training"]["batch_size"] = BATCH
    found["evaluation"] |= {
        "knn_k": [5, 20],
        "probe_c": [0.01, 0.1, 1.0],
        "precise_bn_batch_size": 40,
    }
    for recipe in found["methods"].values():
        if "images_seen" in recipe:
            recipe["images_seen"] = 30 * BATCH
    found["methods"]["simclr"]["options"] |= {"hidden": 16, "output": 8}
    found["methods"]["moco"]["options"] |= {"hidden": 16, "output": 8, "queue": BATCH}
    found["methods"]["mae"]["options"] |= {"patch": 4, "decoder_width": 16}
    found["methods"]["rotation"]["images_seen"] = LONG * BATCH
    found["methods"]["supervised"]["learning_rate"]["resnet"] = 1.0e9
    grid = {"backbones": ["resnet"], "seeds": [0], "learning_rates": "default"}
    found["experiments"] = {
        "leaderboard": {
            "methods": ["simclr", "supervised", "raw-pixels"],
            "schemes": ["bn", "none-plain"],
            **grid,
        },
        "long": {"methods": ["rotation"], "schemes": ["bn"], **grid},
    }
    found["sweep"] |= {"seeds": [100], "extensions": 1}
    return found


def changed(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a tree with the entry at `path`, e.g. `methods/simclr/views/0`, set to a value."""
    found: Any = copy.deepcopy(tree)
    *folders, last = path.split("/")
    at = found
    for part in folders:
        at = at[int(part)] if isinstance(at, list) else at[part]
    at[int(last) if isinstance(at, list) else last] = value
    return dict(found)


def multi_crop(tree: dict[str, Any], method: str, size: int = SIDE // 2) -> dict[str, Any]:
    """A copy of a tree in which a recipe has three local views, small crops of that size."""
    found = copy.deepcopy(tree)
    strong = found["views"]["strong"]
    found["views"]["local"] = {**strong, "crop_scale": [0.05, 0.3], "size": size}
    found["methods"][method]["views"] = ["strong", "strong", "local", "local", "local"]
    return found


def write_params(root: Path, tree: dict[str, Any]) -> None:
    """Writes the params.yaml of a project."""
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(tree, file)


def draw_images(folder: Path, fewer: Mapping[str, int] | None = None) -> None:
    """Four classes that differ in the direction and width of their stripes, under noise.

    `fewer` has the number of images of classes that are to have less than their share.
    """
    dice = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for name, phase in {"a": rows, "b": columns, "c": 2 * rows, "d": 2 * columns}.items():
        (folder / name).mkdir(parents=True)
        for number in range((fewer or {}).get(name, sum(COUNTS.values()) // 4)):
            wave = 128 + 60 * np.sin(phase + dice.uniform(0, 6)) + dice.normal(0, 30, phase.shape)
            image = Image.fromarray(wave.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{number:03}.png")


def project(
    root: Path, tree: dict[str, Any] | None = None, fewer: Mapping[str, int] | None = None
) -> Path:
    """A project folder with params and built images."""
    from benchmark.data.build import build

    tree = tree or raw()
    root.mkdir(parents=True, exist_ok=True)
    draw_images(root / "images", fewer)
    write_params(root, tree)
    given = tree["data"]
    options = given["options"] | {"path": str(root / "images")}
    build("mini", given["source"], options, given["splits"], given["seed"], root / "data" / "mini")
    return root


def params(tree: dict[str, Any] | None = None) -> Params:
    """Tiny params, checked."""
    return parse(raw() if tree is None else tree, "params.yaml")


def manifest(
    shape: tuple[int, int, int] = (1, SIDE, SIDE),
    classes: str = "abcd",
    count: int = COUNTS["train"],
    **more: Any,
) -> Manifest:
    """What a network or a standardisation reads of a manifest."""
    train = Split.model_construct(count=count)
    return Manifest.model_construct(
        shape=shape, classes=tuple(classes), splits={"train": train}, **more
    )


def note(params: Params) -> str:
    """A manifest that says its images were built from these params, and no more."""
    data = params.data
    part = Split(count=0, per_class={}, sha256="images")
    splits = dict.fromkeys(NAMES, part)
    version = registry.facts("source", data.source)["version"]
    options = {key: value for key, value in data.options.items() if key != "path"}
    return json.dumps(
        {
            "format": FORMAT,
            "shape": [1, SIDE, SIDE],
            "classes": [],
            "mean": [],
            "std": [],
            "source": {"name": data.source, "version": version, "options": options},
            "seed": data.seed,
            "asked": data.splits.model_dump(exclude_none=True),
            "shards": 0,
            "track": params.track,
            "splits": dict.fromkeys(NAMES, part.as_json()),
            "sha256": dataset_checksum(splits),
        }
    )


def cell(label: str, experiment: str = "leaderboard", tree: dict[str, Any] | None = None) -> Cell:
    """A planned cell of the tiny project by its label."""
    return next(c for c in cells(params(tree), experiment, None) if c.label == label)


def record(
    cell: Cell,
    result: Mapping[str, Any],
    status: str = "done",
    dataset: str = "images",
    environment: Mapping[str, Any] | None = None,
) -> Record:
    """The record of a cell on the images of this checksum that came to `result`."""
    found = Result.model_validate(result)
    return Record.of(cell.on(dataset), environment or {}, cast(Status, status), found)


def dataset(root: Path) -> str:
    """The checksum of a project's images."""
    manifest = json.loads((root / "data" / "mini" / "manifest.json").read_text(encoding="utf-8"))
    return str(manifest["sha256"])


def store(root: Path) -> Store:
    """A project's store."""
    return Store(root / ".benchmark")


def published(root: Path, experiment: str = "leaderboard") -> dict[str, bytes]:
    """The bytes of every published record by its path below the experiment's folder."""
    folder = root / "results" / "mini" / "records" / experiment
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def environment() -> dict[str, str]:
    """The environment of a command: a CPU, this Python and checkout first, nothing of the user's."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("BENCHMARK_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{ours.get('PATH', '')}"
    fixed = {"CUDA_VISIBLE_DEVICES": "", "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(PROJECT)}
    return ours | fixed | {"PATH": path}


def run(root: Path, *arguments: str) -> warm.Ended:
    """Runs `benchmark` in a project and waits for it: in a process forked from one with torch loaded."""
    return warm.call("benchmark.cli.parser:main", [arguments], root, environment(), 300)


def begin(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts `benchmark` in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmark", *arguments],
        cwd=root, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> None:
    """Leaves nothing of a started command behind, whatever a test came to."""
    for pid in group(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    if process.stderr:
        process.stderr.close()


def at_once(root: Path, *commands: Sequence[str]) -> list[str]:
    """What commands that run at the same time print as messages; all must succeed."""
    processes = [begin(root, *command) for command in commands]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            end(process)
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def check_killed_worker(records: Mapping[str, bytes]) -> None:
    """Of the experiment `long` with raw pixels, rotation's worker was killed and cost no other cell."""
    lost = json.loads(records["rotation/rotation-resnet-bn-s0.json"])["record"]
    assert lost["status"] == "crashed"
    assert lost["result"]["cause"].startswith("the worker died (signal SIGKILL, ")
    kept = json.loads(records["raw-pixels/raw-pixels-pixels-none-s0.json"])["record"]
    assert kept["status"] == "done"


def group(leader: int) -> dict[int, int]:
    """The living processes of a process group, and the parent of each."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] not in "ZX":
            found[int(stat.parent.name)] = int(fields[1])
    return found


def workers(leader: int) -> list[int]:
    """The worker processes that a started command has now: the children of its fork server."""

    def serves(pid: int) -> bool:
        try:
            return b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    return [pid for pid, parent in group(leader).items() if serves(parent)]


def wait_for(what: Callable[[], object], seconds: float = 300.0) -> None:
    """Waits until a condition holds, and fails where it never does."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def steps_saved(checkpoint: Path) -> int:
    """The steps done in a checkpoint, 0 without one."""
    try:
        with checkpoint.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    except OSError:
        return 0
    return int(json.loads(header["__metadata__"]["checkpoint"])["step"])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command in the current folder refuses the user's input."""
    capsys.readouterr()
    code = parser.main(arguments)
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert code == 2, shown
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("benchmark: ")
    assert shown.out == ""
    return lines[0]
