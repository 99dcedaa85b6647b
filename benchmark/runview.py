"""What people see in MLflow of a record: names, parameters, metrics and descriptions.

Knows nothing of MLflow's client; `benchmark.tracking` sends what is made here.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import canonical
from benchmark.collect import Published

LAYOUT = 1
"""Raised whenever a record would be shown otherwise: the next sync then replaces every run."""

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
    """One run as MLflow shall show it."""

    experiment: str
    cell: str
    """The run's identity on the server: a cell's name, or the name of a table."""
    label: str
    finished: bool
    begun: int
    """Milliseconds since 1970."""
    ended: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: Sequence[Point]
    documents: Mapping[str, str]
    """Artifacts by file name."""
    files: Sequence[tuple[Path, str]]
    """Artifacts copied from files, each with the folder it goes to ("" for the top)."""
    dataset: tuple[str, str] | None
    """Name and sha256 of the images."""
    stamp: Mapping[str, str]
    """Tags that say what the run was made from; a run that carries them is up to date."""


def of_cell(entry: Published, run_log: Mapping[str, Any], published: float) -> RunView:
    """A cell's run; `published` (seconds since 1970) is its time where the run log has none."""
    record, result = entry.record, entry.record["result"]
    status, cause = str(record["status"]), result.get("cause")
    timed = "started" in run_log
    begun = float(run_log["started"]) if timed else published
    ended = begun + float(run_log.get("wall_seconds", 0)) if timed else begun
    tags = {
        "kind": "cell",
        "cell": entry.name,
        "track": entry.track,
        "experiment": entry.experiment,
        "method": entry.method,
        "family": entry.family,
        "scheme": entry.scheme,
        "seed": str(entry.seed),
        "status": status,
        "fingerprint": str(record["fingerprint"]),
        "dataset_sha256": str(record["dataset"]),
        "times": "training" if timed else "record file",
        NOTE: _cell_note(entry, status, cause),
    }
    judge = result["metrics"].get("judge")
    tags |= {
        key: str(value)[:LONGEST_TAG]
        for key, value in {
            "cause": cause,
            "split": judge,
            "first_non_finite_step": result.get("first_non_finite_step"),
        }.items()
        if value is not None
    }
    environment = {"environment": record["environment"], "run_log": dict(run_log)}
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
            "record.json": canonical.pretty(record),
            "environment.json": canonical.pretty(environment),
        },
        files=(),
        dataset=(entry.track, str(record["dataset"])),
        stamp=_stamp(entry.checksum, canonical.checksum(dict(run_log))),
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
        # The page has no files beside it that an image could come from.
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
        finished=True,
        begun=when,
        ended=when,
        tags={
            "kind": "table", "cell": name, "track": track, "experiment": experiment,
            "status": "done", NOTE: note,
        },
        params={},
        points=(),
        documents={},
        files=files,
        dataset=None,
        stamp=_stamp(digest.hexdigest(), ""),
    )  # fmt: skip


def parameters(entry: Published) -> dict[str, str]:
    """The cell's configuration, flattened: `training.rate`, `norms.backbone`, `views.1.flip`."""
    config = dict(entry.record["cell"])
    training = dict(config.pop("training", None) or {})
    views = training.pop("views", [])
    flat: dict[str, str] = {"scheme": entry.scheme, "seed": str(config.pop("seed", entry.seed))}
    for section, norm in dict(config.pop("norms", {})).items():
        options = [f"{key}={value}" for key, value in norm.items() if key != "norm"]
        flat[f"norms.{section}"] = " ".join([norm["norm"], *options])
    for group, options in config.items():
        flat |= _flat(group, options)
    flat |= _flat("training", training)
    for place, view in enumerate(views, start=1):
        flat |= _flat(f"views.{place}", view)
    result = entry.record["result"]
    flat |= {
        key: str(result[source])
        for key, source in {"training.steps": "steps", "backbone.parameters": "parameters"}.items()
        if result.get(source) is not None
    }
    return {key: value[:LONGEST_PARAM] for key, value in flat.items()}


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: value if isinstance(value, str) else json.dumps(value)}
    flat: dict[str, str] = {}
    for key, item in value.items():
        # `method`, not `method.name`: the choice itself comes first, its options below it.
        flat |= _flat(prefix if key == "name" else f"{prefix}.{key}", item)
    return flat


def finals(record: Mapping[str, Any], run_log: Mapping[str, Any]) -> Iterator[Point]:
    """The values a cell ends with; what is not a finite number is left out."""
    for key, value in record["result"]["metrics"].items():
        if _is_number(value):
            yield Point(metric_name(key), float(value), 0)
    for key in ("training_seconds", "wall_seconds", "cpu_seconds", "images_per_second"):
        if _is_number(run_log.get(key)):
            yield Point(f"cost/{key}", float(run_log[key]), 0)
    if _is_number(run_log.get("peak_memory_bytes")):
        yield Point("cost/peak_memory_gib", run_log["peak_memory_bytes"] / _GIB, 0)


def metric_name(key: str) -> str:
    """A record's `<readout>[_reestimated].<metric>[.<detail>]` as MLflow groups it.

    `pooled`, the readout every backbone has, goes without saying: `knn20`, `knn20_reestimated`,
    `class_token/knn20`, `validation/knn20`, `validation/class_token/linear`, `probe/penalty`.
    """
    readout, _, metric = key.partition(".")
    metric, _, detail = metric.partition(".")
    if not metric:
        return key
    plain = readout.removesuffix("_reestimated")
    suffix = "_reestimated" if plain != readout else ""
    name = metric + suffix if plain == "pooled" else f"{plain}/{metric}{suffix}"
    if not detail:
        return name
    if detail == "validation":
        return f"validation/{name}"
    place = "" if plain == "pooled" else f"{plain}/"
    return f"probe/{place}{detail}{suffix}"


def curves(record: Mapping[str, Any]) -> Iterator[Point]:
    """The points of every curve, `train/…`; what is not a finite number is left out."""
    recorded = record["result"].get("curves") or {}
    steps = recorded.get("step", [])
    for name, values in recorded.items():
        if name == "step":
            continue
        for step, value in zip(steps, values, strict=True):
            if _is_number(value):
                yield Point(f"train/{CURVES.get(name, name)}", float(value), int(step))


def description(track: str, experiment: str, entries: Sequence[Published]) -> str:
    """What a reader of the experiment's page has to know, in Markdown."""
    done = sum(entry.record["status"] == "done" for entry in entries)
    rest = f", {len(entries) - done} of them failed" if done < len(entries) else ""
    example = next((e.label for e in entries if e.record["status"] == "done"), "a cell")
    return f"""\
**Which normalization suits which self-supervised method?** Track `{track}`, experiment \
`{experiment}`: {len(entries)} runs{rest}. One run is one training: a method, a backbone family, a \
normalization scheme and a seed, in this order in its name (`{example}`).

**Metrics** are accuracies of the frozen backbone on test images, 0 to 1, higher is better.

| metric | what it is |
| --- | --- |
| `knn20`, `knn200` | nearest neighbours, k = 20 or 200, on the pooled embedding |
| `linear` | a linear probe on the pooled embedding |
| `…_reestimated` | the same after batch norm's statistics were estimated again; no different \
for schemes without batch statistics |
| `class_token/…` | on the class token instead (vision transformers) |
| `validation/…`, `probe/…` | on the validation images, which chose the probe's penalty |
| `train/…` | curves over training steps: loss, gradient norm, accuracy at the pretext task |
| `cost/…` | time and memory on the machine that trained it; not part of the result |

**To compare schemes:** search `tags.method = "simclr" and tags.family = "resnet"`, then open the \
chart view and group by the parameter `scheme`; or tick runs and press *Compare*. Seeds differ by \
chance: two schemes differ only as far as their seeds agree. The run `leaderboard`, if there is \
one, holds the tables and figures with that worked out.

**A failed run** is a result too: its tag `status` says *diverged*, *out-of-memory* or *crashed*, \
and `cause` why. Such a run has curves up to the failure and no accuracies.

These pages are a view of the records under `results/{track}/records`; `uv run benchmark sync \
--track {track}` makes them again, so changes made here are not kept.
"""


def _cell_note(entry: Published, status: str, cause: object) -> str:
    trained = f"`{entry.method}` on a `{entry.family}` backbone, scheme `{entry.scheme}`"
    note = f"{trained}, seed {entry.seed}."
    if status != "done":
        note += f" **{status}**" + (f": {cause}" if cause else "")
    again = f"uv run benchmark verify --track {entry.track} --experiment {entry.experiment}"
    note += f"\n\nTrain it again and compare: `{again} {entry.label}`\n"
    return note[:LONGEST_TAG]


def _stamp(record: str, run_log: str) -> dict[str, str]:
    return {"record_sha256": record, "run_log_sha256": run_log, "layout": str(LAYOUT)}


def _is_number(value: object) -> bool:
    """Finite, and not null; truth values count as 0 and 1."""
    return isinstance(value, int | float) and math.isfinite(value)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
