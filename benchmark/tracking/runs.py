"""What MLflow shows of one record: names, parameters, metrics and a description.

It does not use MLflow's client; `sync` sends what is made here.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.config.overrides import flags
from benchmark.core import canonical_json
from benchmark.results.published import Published
from benchmark.results.records import Record, RunLog

LAYOUT = 3
"""Raised whenever records are shown in another way: the next sync then replaces every run."""

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a description, in Markdown."""

CURVES = {"loss": "loss", "gradient_norm": "gradient_norm", "pretext": "pretext_accuracy"}
"""Readable names of a record's curves."""

LONGEST_PARAM = 6000
"""Characters that MLflow keeps of a parameter."""

LONGEST_TAG = 8000
"""Characters that MLflow keeps of a run's tag."""

_IMAGE = re.compile(r"!\[[^]]*\]\(([^)]*)\)")
_GIB = 2**30


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    key: str
    value: float
    step: int


@dataclass(frozen=True)
class RunView:
    """One run as MLflow shows it."""

    experiment: str
    cell: str
    """The run's identity on the server: a cell's name, or the name of a table."""
    label: str
    begun: int
    """Milliseconds since 1970."""
    ended: int
    tags: Mapping[str, str]
    stamp: Mapping[str, str]
    """Tags with the checksums of what the run was made from; a run with these tags is up to date."""
    finished: bool = True
    params: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    documents: Mapping[str, str] = field(default_factory=dict)
    """Artifacts by file name."""
    files: Sequence[tuple[Path, str]] = ()
    """Artifacts copied from files, each with the folder it goes to ("" for the top)."""
    dataset: tuple[str, str] | None = None
    """Name and sha256 of the images."""


def of_cell(entry: Published, run_log: RunLog) -> RunView:
    """A cell's run. Without a run log, its time is that of the record's file."""
    record, result = entry.record, entry.record.result
    status, cause = record.status, result.cause
    timed = run_log.started is not None
    begun = entry.file.stat().st_mtime if run_log.started is None else run_log.started
    ended = begun + (run_log.wall_seconds or 0) if timed else begun
    tags = {
        "kind": "cell",
        "cell": entry.name,
        "track": entry.track,
        "experiment": entry.experiment,
        "method": entry.method,
        "backbone": entry.backbone,
        "scheme": entry.scheme,
        "seed": str(entry.seed),
        "status": status,
        "fingerprint": record.fingerprint,
        "dataset_sha256": record.dataset,
        "times": "training" if timed else "record file",
        NOTE: _cell_note(entry, status, cause),
    }
    judge = result.metrics.get("judge")
    tags |= {
        key: str(value)[:LONGEST_TAG]
        for key, value in {
            "cause": cause,
            "split": judge,
            "first_non_finite_step": result.first_non_finite_step,
            "overrides": flags(entry.overrides) or None,
        }.items()
        if value is not None
    }
    environment = {"environment": record.environment, "run_log": run_log.as_json()}
    return RunView(
        experiment=f"{entry.track}/{entry.experiment}",
        cell=entry.name,
        label=entry.label,
        finished=status == "done",
        begun=_milliseconds(begun),
        ended=_milliseconds(ended),
        tags=tags,
        params=parameters(entry),
        points=[*finals(record, run_log), *curves(record)],
        documents={
            "record.json": canonical_json.pretty(record.as_json()),
            "environment.json": canonical_json.pretty(environment),
        },
        dataset=(entry.track, record.dataset),
        stamp=_stamp(entry.checksum, canonical_json.checksum(run_log.as_json())),
    )


def of_reports(track: str, experiment: str, files: Sequence[tuple[Path, str]]) -> RunView:
    """The run that holds an experiment's tables and figures; its name is `leaderboard`.

    `files` as in `RunView.files`. The first Markdown table that fits is the run's description.
    """
    contents = [(path, folder, path.read_bytes()) for path, folder in files]
    digest = hashlib.sha256()
    for path, folder, raw in contents:
        digest.update(f"{folder}/{path.name}\0{len(raw)}\0".encode() + raw)
    texts = [
        # MLflow shows the page without its image files.
        _IMAGE.sub("*Figure: \\1, under Artifacts*", raw.decode(errors="replace"))
        for path, _, raw in contents
        if path.suffix == ".md"
    ]
    note = next(
        (text for text in texts if len(text) <= LONGEST_TAG),
        "The tables and figures made from this experiment's records: see Artifacts.",
    )
    when = _milliseconds(max(path.stat().st_mtime for path, _ in files))
    name = f"{track}/{experiment}/leaderboard"
    return RunView(
        experiment=f"{track}/{experiment}",
        cell=name,
        label="leaderboard",
        begun=when,
        ended=when,
        tags={
            "kind": "table", "cell": name, "track": track, "experiment": experiment,
            "status": "done", NOTE: note,
        },
        files=files,
        stamp=_stamp(digest.hexdigest(), None),
    )  # fmt: skip


def parameters(entry: Published) -> dict[str, str]:
    """The cell's configuration, flattened: `training.learning_rate`, `norms.backbone`, `views.1.flip`.

    What distinguishes cells is first: MLflow lists parameters in the order in which it got them.
    """
    config, result = entry.record.cell.as_json(), entry.record.result
    training = dict(config["training"] or {})
    views = training.pop("views", [])
    flat = {"method": entry.method, "backbone": entry.backbone, "scheme": entry.scheme}
    flat["seed"] = str(entry.seed)
    for section, norm in config["norms"].items():
        options = [f"{key}={value}" for key, value in norm.items() if key != "norm"]
        flat[f"norms.{section}"] = " ".join([norm["norm"], *options])
    flat |= _flat("method", config["method"]) | _flat("training", training)
    for place, view in enumerate(views, start=1):
        flat |= _flat(f"views.{place}", view)
    flat |= _flat("backbone", config["backbone"])
    flat |= _flat("evaluation", config["evaluation"])
    sizes = {"training.steps": result.steps, "backbone.weights": result.parameters}
    flat |= {key: str(value) for key, value in sizes.items() if value is not None}
    return {key: value[:LONGEST_PARAM] for key, value in flat.items()}


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: value if isinstance(value, str) else json.dumps(value)}
    flat: dict[str, str] = {}
    for key, item in value.items():
        # `training.optimizer`, not `training.optimizer.name`: the choice above its options.
        flat |= _flat(prefix if key in ("name", "model") else f"{prefix}.{key}", item)
    return flat


def finals(record: Record, run_log: RunLog) -> Iterator[Point]:
    """The final values of a cell, without those that are not finite.

    Test accuracies are first: MLflow lists metrics in the order in which it got them.
    """
    metrics = {metric_name(key): value for key, value in record.result.metrics.items()}
    for name in sorted(metrics, key=lambda name: (name.startswith("validation/"), "/" in name)):
        if _is_number(metrics[name]):
            yield Point(name, float(metrics[name]), 0)
    diagnostics = dict(record.result.diagnostics)
    for part, measures in (diagnostics.pop("sections", {}) | diagnostics).items():
        for key, value in _flat_numbers(measures):
            yield Point(f"diagnostics/{part}_{key}", value, 0)
    for key in ("training_seconds", "wall_seconds", "cpu_seconds", "images_per_second"):
        if (spent := getattr(run_log, key)) is not None:
            yield Point(f"usage/{key}", spent, 0)
    if run_log.peak_memory_bytes is not None:
        yield Point("usage/peak_memory_gib", run_log.peak_memory_bytes / _GIB, 0)


def _flat_numbers(measures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a part of the diagnostics, some of which are by section."""
    for key, value in measures.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}_{name}", number) for name, number in _flat_numbers(value))
        elif _is_number(value):
            yield key, float(value)


def metric_name(key: str) -> str:
    """A record's `<readout>[_reestimated].<metric>[.<detail>]` as MLflow groups it.

    `pooled`, the readout that every backbone has, is left out: `knn20`, `knn20_reestimated`,
    `class_token/knn20`, `validation/knn20`, `validation/linear_penalty`.
    """
    readout, _, metric = key.partition(".")
    metric, _, detail = metric.partition(".")
    if not metric:
        return key
    plain = readout.removesuffix("_reestimated")
    if detail not in ("", "validation"):
        metric += f"_{detail}"
    if plain != readout:
        metric += "_reestimated"
    name = metric if plain == "pooled" else f"{plain}/{metric}"
    return f"validation/{name}" if detail else name


def curves(record: Record) -> Iterator[Point]:
    """The points of every curve, `train/…`, without those that are not finite."""
    recorded = record.result.curves
    for name, values in recorded.items():
        if name == "step":
            continue
        for step, value in zip(recorded["step"], values, strict=True):
            if step is not None and value is not None and math.isfinite(value):
                yield Point(f"train/{CURVES.get(name, name)}", value, int(step))


def _cell_note(entry: Published, status: str, cause: object) -> str:
    trained = f"`{entry.method}` on a `{entry.backbone}` backbone, scheme `{entry.scheme}`"
    note = f"{trained}, seed {entry.seed}."
    if status != "done":
        note += f" **{status}**" + (f": {cause}" if cause else "")
    again = f"uv run benchmark verify --track {entry.track} --experiment {entry.experiment}"
    note += f"\n\nTrain it again and compare: `{again} {entry.label}`\n"
    return note[:LONGEST_TAG]


def _stamp(record: str, run_log: str | None) -> dict[str, str]:
    of_run_log = {"run_log_sha256": run_log} if run_log else {}
    return {"record_sha256": record, **of_run_log, "layout": str(LAYOUT)}


def _is_number(value: object) -> bool:
    """Whether a value is a finite number; booleans count as 0 and 1."""
    return isinstance(value, int | float) and math.isfinite(value)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
