"""`benchmark export`: writes the evaluated backbone of a cell as a folder for timm."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.common import add_experiment, add_set, add_track, planned, read_judged
from benchmark.config.overrides import flags
from benchmark.core import determinism
from benchmark.core.errors import UserError
from benchmark.planning.cell import Task
from benchmark.planning.images import data_folder, dataset_checksum
from benchmark.results.records import Record, Store, store

HELP = "write a cell's evaluated backbone, with a model card, for timm"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    add_track(verb)
    add_set(verb)
    verb.add_argument("cell", metavar="CELL", help="e.g. simclr-resnet-bn-s0")
    verb.add_argument("target", metavar="DIR", type=Path, help="a new folder")
    add_experiment(verb)
    verb.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")


def run(arguments: argparse.Namespace) -> None:
    """Writes the folder and prints how to load it."""
    target = arguments.target
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target}: expected a new folder or an empty one")
    found = read_judged(arguments)
    cells = planned(arguments, found, [arguments.cell])
    if len(cells) > 1:
        names = ", ".join(cell.label for cell in cells)
        raise UserError(f"{arguments.cell} is {len(cells)} cells, and one is exported: {names}")
    task = cells[0].on(dataset_checksum(arguments.root, found))
    kept = store(arguments.root)
    record = _finished(task, kept, f"{arguments.experiment} {flags(found.overrides)}".strip())
    determinism.prepare()
    from benchmark.execution.export import export

    data = data_folder(arguments.root, found.track)
    plain = export(task, record, data, kept, target, arguments.device)
    by_timm = f'timm.create_model("local-dir:{target}", pretrained=True, num_classes=0)'
    by_benchmark = f'benchmark.backbones.exported.load("{target}")'
    print(by_timm if plain else by_benchmark)


def _finished(task: Task, kept: Store, experiment: str) -> Record:
    """The record of a task whose final state is stored too; UserError with what makes them if not."""
    cell, record = task.cell, kept.record(task.fingerprint)
    if "backbone" not in cell.config.norms:
        raise UserError(f"{cell.name} has no backbone to export")
    if record is not None and record.status != "done":
        raise UserError(f"{cell.name} is {record.status}, so it has no final state to export")
    trained = cell.config.training is not None
    if record is None or (trained and not kept.trained(task.training_key).is_file()):
        track = "" if cell.track == "mini" else f"--track {cell.track} "
        raise UserError(
            f"{cell.name} has no stored final state: `uv run benchmark train {track}"
            f"--experiment {experiment} --cell {cell.label} --state` makes it"
        )
    return record
