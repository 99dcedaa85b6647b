"""How many cells a minute one worker trains, and how many several."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.execution import local
from benchmark.execution.missing import train_missing
from benchmark.planning import plan
from benchmark.planning.cell import Cell, Row, tasks
from benchmark.planning.images import data_folder, dataset_checksum
from benchmark.results.records import Store

SCHEMES = ("bn", "ln", "gn")
SEEDS = (0, 1, 2, 3)


def measure(
    root: Path, params: Params, device: str, counts: Sequence[int], images: int
) -> dict[str, Any]:
    """Trains the same cells with each number of workers, from nothing to their records.

    SimCLR on the ResNet under three norms and four seeds, each for `images` images, on `device`, cpu or
    cuda. The starts of the processes are part of it. UserError where the track's images have not been
    built.
    """
    dataset = dataset_checksum(root, params)
    cells = [_cell(params, scheme, seed, images) for scheme in SCHEMES for seed in SEEDS]
    wanted = tasks(cells, dataset)
    runs, records = [], []
    for jobs in counts:
        with tempfile.TemporaryDirectory(prefix="benchmark-speed-") as folder:
            store = Store(Path(folder))
            begun = time.perf_counter()
            way = local.workers(jobs, jobs if device == "cuda" else None)
            train_missing(wanted, store, data_folder(root, params.track), way, device)
            seconds = time.perf_counter() - begun
            found = [store.record(task.fingerprint) for task in wanted]
            records.append(
                canonical_json.checksum([one.as_json() if one else None for one in found])
            )
        runs.append(
            {"jobs": jobs, "seconds": seconds, "cells_per_minute": 60 * len(cells) / seconds}
        )
    return {
        "track": params.track,
        "cells": len(cells),
        "images": images,
        "runs": runs,
        "ratio": runs[-1]["cells_per_minute"] / runs[0]["cells_per_minute"],
        "identical": len(set(records)) == 1,
    }


def _cell(params: Params, scheme: str, seed: int, images: int) -> Cell:
    row = Row("simclr", "resnet", scheme)
    recipe = params.methods["simclr"].model_copy(update={"images_seen": images})
    short = params.model_copy(update={"methods": {**params.methods, "simclr": recipe}})
    setting = plan.default_setting(short, row)
    return plan.resolve(short, "speed", row, seed, setting, "test", f"{row}-s{seed}")
