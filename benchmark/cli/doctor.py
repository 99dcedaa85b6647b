"""`benchmark doctor`: describes this machine and what it lacks."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmark.components import plugins
from benchmark.config.params import read, track_file
from benchmark.core import determinism
from benchmark.core.system import cores
from benchmark.provenance.program import program, versions

HELP = "describe this machine and what it lacks"

PINNED = ("torch", "torchvision", "timm", "dvc", "mlflow", "numpy", "scipy", "scikit-learn")


def run(arguments: argparse.Namespace) -> None:
    """Describes the machine."""
    print("\n".join(report(arguments.root)))


def report(root: Path) -> list[str]:
    """Lines for a person: machine, device, versions against the lock, data files."""
    device = determinism.start()
    facts = determinism.environment(device)
    locked = versions(root / "uv.lock")
    lines = [
        f"machine      {platform.platform()}, {cores()} CPU cores usable",
        f"python       {sys.version.split()[0]}",
        f"device       {facts['device']} (instruction set {facts['instruction_set']}, "
        f"{facts['threads']} thread a cell)",
        f"program      {_program()}",
        f"disk         {shutil.disk_usage(root).free / 2**30:.0f} GiB free",
    ]
    for name in PINNED:
        try:
            found = version(name)
        except PackageNotFoundError:
            lines.append(f"{name:12} MISSING (locked: {_listed(locked, name)})")
            continue
        # A local version label (2.11.0+cu130) names a build of the same release.
        same = found.split("+")[0] in locked.get(name, {found})
        note = "as locked" if same else f"NOT AS LOCKED: {_listed(locked, name)}"
        lines.append(f"{name:12} {found} ({note})")
    folder = os.environ.get("BENCHMARK_DATA")
    exists = folder is not None and Path(folder).is_dir()
    lines.append(
        f"BENCHMARK_DATA {folder or 'not set'}{'' if exists or not folder else ' MISSING'}"
    )
    lines += [
        f"plug-in      {facts['kind']} {facts['name']} {facts['version']}: "
        f"{facts.get('path', facts['module'])}"
        for facts in plugins.found(plugins.named())
    ]
    for track in ("mini", *sorted(p.parent.name for p in root.glob("tracks/*/params.yaml"))):
        title = read(track_file(root, track)).title
        built = (root / "data" / track / "manifest.json").is_file()
        lines.append(f"track        {track}: {title} ({'built' if built else 'not built'})")
    return lines


def _program() -> str:
    found = program()
    words = [f"commit {found.commit[:12]}" if found.commit else "no known commit"]
    if found.dirty:
        words.append("CHANGED since")
    words.append(f"image on {found.image.base_digest}" if found.image else "no image")
    return ", ".join(words)


def _listed(locked: dict[str, set[str]], name: str) -> str:
    return " or ".join(sorted(locked.get(name, {"nothing"})))
