"""What was timed, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.core import canonical_json
from benchmark.report.markdown import cells
from tools.speed.cases import Case
from tools.speed.timing import Stretch

SCHEMA = 1


def machine(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures hold for; `facts` is the environment of a training."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory() / 2**30),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{key: value for key, value in facts.items() if key != "threads"},
    }


def _cpu() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def entry(case: Case, threads: int, found: Sequence[Mapping[str, Stretch]]) -> dict[str, Any]:
    """The figures of a case: images per second of each contestant, and ratios within rounds."""
    rates = {name: [one[name].images_per_second for one in found] for name in found[0]}
    ours = rates["ours"]
    return {
        "case": case.name,
        "shape": [case.channels, case.side, case.side],
        "batch": case.batch,
        "precision": case.precision,
        "threads": threads,
        "rounds": len(found),
        "images_per_second": {name: spread(values) for name, values in rates.items()},
        "ours_to": {
            name: spread([a / b for a, b in zip(ours, values, strict=True)])
            for name, values in rates.items()
            if name != "ours"
        },
        "bound_to": {
            name: spread([a / b for a, b in zip(rates["bare"], values, strict=True)])
            for name, values in rates.items()
            if "bare" in rates and name not in ("ours", "bare")
        },
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range, to four digits."""
    figures = {"median": median(values), "low": min(values), "high": max(values)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def load(folder: Path, name: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured on this machine before, or an empty document."""
    try:
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        found = {}
    same = found.get("schema") == SCHEMA and found.get("machine") == machine
    return dict(found) if same else {"machine": machine}


def write(folder: Path, name: str, document: Mapping[str, Any]) -> Path:
    """Writes NAME.json and NAME.md."""
    canonical_json.write(
        folder / f"{name}.json", canonical_json.pretty({"schema": SCHEMA, **document})
    )
    page = folder / f"{name}.md"
    canonical_json.write(page, markdown(document))
    return page


def markdown(document: Mapping[str, Any]) -> str:
    """The page."""
    return "\n\n".join(_parts(document)) + "\n"


def _parts(document: Mapping[str, Any]) -> list[str]:
    facts = document["machine"]
    device = "" if facts["device"] == "cpu" else f", {facts['device']}"
    parts = [
        "# Speed",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB{device}; {facts['system']}; "
        f"Python {facts['python']}, torch {facts['torch']}, {facts['instruction_set']}. Measured by "
        "`python -m tools.speed`, see [docs/performance.md](../../docs/performance.md).",
    ]
    if document.get("training"):
        parts += ["## One training", _training(document["training"])]
    if document.get("jobs"):
        parts += ["## Several training runs", _jobs(document["jobs"])]
    if document.get("harness"):
        parts += ["## Around the training runs", _harness(document["harness"])]
    return parts


def _training(entries: Sequence[Mapping[str, Any]]) -> str:
    head = ["training", "threads", "this project", "lightly", "kornia", "bare step"]
    head += ["against lightly (the limit)", "against kornia", "share of the bare step"]
    rows = []
    for one in entries:
        rates, ratios = one["images_per_second"], one["ours_to"]
        lightly = _range(ratios.get("lightly"), "×")
        if "lightly" in one["bound_to"]:
            lightly += f" ({one['bound_to']['lightly']['median']:.2f}×)"
        rows.append(
            [
                f"{one['case']}, {one['precision']}, {'×'.join(map(str, one['shape']))}, "
                f"batch {one['batch']}",
                str(one["threads"]),
                *(_range(rates.get(name)) for name in ("ours", "lightly", "kornia", "bare")),
                lightly,
                _range(ratios.get("kornia"), "×"),
                _range(ratios.get("bare")),
            ]
        )
    reasons = dict.fromkeys(why for one in entries for why in one.get("missing", {}).values())
    said = "Images a second and ratios within rounds: median (range)."
    return "\n\n".join([_table(head, rows), said, *reasons])


def _range(values: Mapping[str, float] | None, unit: str = "") -> str:
    if values is None:
        return "—"
    low, high = (_number(values[key]) for key in ("low", "high"))
    return f"{_number(values['median'])}{unit} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.2f}"


def _jobs(found: Mapping[str, Any]) -> str:
    rows = [
        [str(one["jobs"]), f"{one['seconds']:.1f}", f"{one['cells_per_minute']:.2f}"]
        for one in found["runs"]
    ]
    return (
        f"{found['cells']} cells of {found['images']} images, from nothing to their records:\n\n"
        + _table(["jobs", "seconds", "cells a minute"], rows)
        + f"\n\nRatio of cells a minute: {found['ratio']:.2f}; records identical: "
        + ("yes" if found["identical"] else "**no**")
        + "."
    )


def _harness(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [[one["what"], f"{one['wall']:.2f}", f"{one['cpu']:.2f}"] for one in found]
    return _table(["what", "seconds", "CPU-seconds"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(map(cells, lines))
