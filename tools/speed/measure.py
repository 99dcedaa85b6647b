"""`python -m tools.speed`: all parts, and the files that are left."""

from __future__ import annotations

import multiprocessing
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.config import params
from benchmark.core import determinism
from benchmark.core.errors import UserError, unknown
from benchmark.core.system import cores
from tools.speed import jobs, overhead, report, timing
from tools.speed.cases import CASES

PARTS = ("training", "jobs", "harness")
CONTESTANTS = ("ours", "lightly", "kornia", "bare")


def speed(
    root: Path,
    device: str,
    parts: Sequence[str],
    names: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    seconds: float,
) -> Path:
    """Measures the named parts and returns the page that is written.

    `names` are cases, all of the device's where empty; `threads` are the numbers of CPU cores that a
    single training gets. Parts that are not measured now stay as the last measurement left them; what is
    measured is written at once.
    """
    known = [case.name for of in CASES.values() for case in of]
    for name in names:
        if name not in known:
            raise unknown("case", name, known)
    if max(threads) > cores():
        raise UserError(f"--threads is {max(threads)}, and this process may use {cores()} cores")
    facts = _facts(device)
    kind = "cpu" if facts["device"] == "cpu" else "cuda"
    cases = [case for case in CASES[kind] if case.name in names or not names]
    if not cases:
        raise UserError(f"none of the cases {', '.join(names)} is for this device, {kind}")
    machine = report.machine(facts)
    folder = root / "results" / "speed"
    name = re.sub(r"\W+", "-", (machine["cpu"] if kind == "cpu" else facts["device"]).lower())
    name = f"{name}-{machine['cores']}-cores" if kind == "cpu" else name
    document = report.load(folder, name, machine)
    page = folder / f"{name}.md"
    if "training" in parts:
        for case in cases:
            measured: list[dict[str, Any]] = []
            for count in threads:
                found = []
                for number, one in enumerate(
                    timing.rounds(case, CONTESTANTS, root, device, _cores(count), rounds, seconds)
                ):
                    said = ", ".join(f"{k} {v.images_per_second:.0f}" for k, v in one.items())
                    print(f"{case.name} ×{count} round {number + 1}: {said}", file=sys.stderr)
                    found.append(one)
                measured.append(report.entry(case, count, found))
            others = [e for e in document.get("training", []) if e["case"] != case.name]
            document["training"] = sorted(others + measured, key=lambda e: _place(e["case"], kind))
            page = report.write(folder, name, document)
    if "jobs" in parts:
        track, counts, images = (
            ("mini", (1, cores()), 12_000) if kind == "cpu" else ("cifar10", (1, 4), 200_000)
        )
        found_params = params.read(params.track_file(root, track))
        document["jobs"] = jobs.measure(root, found_params, kind, counts, images)
        page = report.write(folder, name, document)
    if "harness" in parts:
        document["harness"] = overhead.measure(root)
        page = report.write(folder, name, document)
    return page


def _place(case: str, kind: str) -> int:
    return [known.name for known in CASES[kind]].index(case)


def _cores(count: int) -> list[int]:
    """The CPU cores that a training gets, by number; those of this process, the last first."""
    import os

    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(count)
    return sorted(usable)[-count:]


def _facts(device: str) -> dict[str, Any]:
    """The environment of a training here, from a process of its own: this one never loads torch."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_environment, (device,))


def _environment(device: str) -> dict[str, Any]:
    return determinism.environment(determinism.start(device))
