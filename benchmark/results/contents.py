"""Whether a record says what a cell of its configuration can: keys, ranges, and numbers that must agree.

A record's seal and fingerprint tell that it is whole, not that its result is one of the program's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.core.wording import clipped
from benchmark.planning.configuration import EvaluationConfig
from benchmark.results.records import Record, RunLog

SHARE, OTHER, FLAG, COUNT = "a number from 0 to 1", "a number above 0", "true or false", "a count"

DIAGNOSTICS = ("leakage", "sections", "three_way")
"""What `diagnostics.diagnose` measures; `stability` is there for a cell that diverged, too."""

TIES = 0.01
"""Share of the images whose vote may differ between the accuracy and `correct`.

They are two searches for neighbours, for several k and for the first one. Of equally near neighbours
either search may take others. In 361 records of `mini` 1 of 2,000 images differed, where embeddings were
not collapsed.
"""

COLLAPSED = 0.01
"""Standard deviation of the embeddings below which most neighbours are equally near."""


def fault(record: Record) -> str | None:
    """The first key of a final record whose value its cell cannot have, in one line; None if all can."""
    for found in (_environment, _metrics, _correct, _curves, _diagnostics):
        for said in found(record):
            return said
    return None


def foreign(record: Record, log: RunLog) -> str | None:
    """The first key of a run log that contradicts the record, in one line; None without any.

    Logs of other versions lack keys, which are not compared.
    """
    environment, machine = record.environment, log.machine
    for key in ("device", "threads"):
        value = getattr(machine, key, None)
        if value is not None and key in environment and value != environment[key]:
            return (
                f"machine.{key} is {value!r}, and the record's environment has {environment[key]!r}"
            )
    recipe, seconds, speed = record.cell.training, log.training_seconds, log.images_per_second
    if recipe is None:
        return None if seconds is None else "training_seconds is given, and the cell is not trained"
    if seconds is not None and speed is not None and record.status == "done":
        # As `execution.cell` computes the speed.
        seen = (recipe.steps - (log.resumed_at_step or 0)) * recipe.batch_size
        if abs(speed * max(seconds, 1e-9) - seen) > 1e-6 * max(seen, 1):
            return (
                f"images_per_second × training_seconds is {speed * seconds:.6g}, and the cell has "
                f"{seen} images to see"
            )
    return None


def _environment(record: Record) -> Iterator[str]:
    devices = record.environment.get("devices", 2)
    if not (
        (type(devices) is int and devices >= 2)
        or (isinstance(devices, str) and re.fullmatch(r"[1-9]\d* to [1-9]\d*", devices))
    ):
        yield f"environment.devices is {_shown(devices)}, expected a number from 2, e.g. 4 or '1 to 2'"


def _metrics(record: Record) -> Iterator[str]:
    metrics = record.result.metrics
    if record.status != "done":
        if metrics:
            yield f"metrics has {min(metrics)!r}, and the status is {record.status}"
        return
    names = {key.partition(".")[0].removesuffix("_reestimated") for key in metrics}
    readouts = names - {"judge", "transfer", "finetune"} | {"pooled"}
    spec = record.cell.evaluation
    kinds = expected(spec, readouts)
    for key in sorted({"judge", *kinds} - metrics.keys()):
        yield f"metrics.{key} is missing"
    for key in sorted(metrics.keys() - kinds.keys() - {"judge"}):
        yield f"metrics.{key}: the evaluation of this cell has no such key"
    if metrics["judge"] != spec.judge:
        yield f"metrics.judge is {_shown(metrics['judge'])}, expected {spec.judge!r}"
    for key, kind in kinds.items():
        value = metrics[key]
        number = type(value) in (int, float)
        if kind != COUNT and value is None:
            continue  # an embedding was not finite
        if not (
            type(value) is bool
            if kind == FLAG
            else number and (0 <= value <= 1 if kind == SHARE else value > 0)
        ):
            yield f"metrics.{key} is {_shown(value)}, expected {kind}"


def expected(spec: EvaluationConfig, readouts: set[str]) -> dict[str, str]:
    """What `evaluation.evaluate` and `evaluation.finetune` measure: what each value is, by key.

    The key `judge` has a text and is left out here.
    """

    def scores(prefix: str, neighbours: tuple[int, ...]) -> dict[str, str]:
        tags = ("", ".validation") if spec.judge == "test" else ("",)
        own = {f"{prefix}.knn{k}{tag}": SHARE for k in neighbours for tag in tags}
        if spec.judge == "test":
            linear = f"{prefix}.linear"
            own |= {linear: SHARE, f"{linear}.validation": SHARE}
            own |= {f"{linear}.penalty": OTHER, f"{linear}.penalty_at_edge": FLAG}
        return own

    found: dict[str, str] = {}
    for readout in sorted(readouts):
        for prefix in (readout, f"{readout}_reestimated"):
            found |= scores(prefix, spec.knn_k)
            for share in spec.few_labels:
                own = f"{prefix}.few_labels_{share:g}"
                found |= {f"{own}.images": COUNT, **scores(own, spec.knn_k[:1])}
    for track in spec.transfer:
        found |= scores(f"transfer.{track}", spec.knn_k)
    if spec.finetune:
        shares = [f".labels_{few.share:g}" for few in spec.finetune.labels]
        for name in (f"finetune{part}" for part in ("", *shares)):
            found |= {f"{name}.accuracy": SHARE, f"{name}.validation": SHARE}
            found[f"{name}.chosen_rate"] = OTHER
    return found


def _correct(record: Record) -> Iterator[str]:
    """The bits and the accuracy of the ranking metric, see `evaluation.evaluate.Evaluation`."""
    correct, spec = record.result.correct, record.cell.evaluation
    judged = record.status == "done" and spec.judge == "test"
    if correct is not None and not (judged and re.fullmatch(r"[0-9a-f]+", correct)):
        yield f"correct is {clipped(correct)}, expected {'hexadecimal bits' if judged else 'null'}"
        return
    key = f"pooled_reestimated.knn{spec.knn_k[0]}"
    accuracy = record.result.metrics.get(key) if judged else None
    if accuracy is None:
        return
    if correct is None:
        yield f"correct is null, and metrics.{key} is {accuracy}"
        return
    ones, most = int(correct, 16).bit_count(), 4 * len(correct)
    # The last digit may have up to three bits of no image.
    images = next(
        (n for n in range(most, most - 4, -1) if round(accuracy * n) / n == accuracy), most
    )
    share = ones / images
    allowed = max(TIES, 1 / images)
    spread = _spread(record.result.diagnostics)
    if spread is None or spread < COLLAPSED:
        # Four standard errors of the difference of two votes by chance.
        allowed += 4 * (2 * max(share * (1 - share), 1 / images) / images) ** 0.5
    if abs(share - accuracy) > allowed:
        yield f"metrics.{key} is {accuracy}, and by `correct` {ones} of {images} images, {share:.4f}"


def _spread(diagnostics: Mapping[str, Any]) -> float | None:
    """The standard deviation of the backbone's embeddings, if it is known."""
    try:
        return float(diagnostics["sections"]["backbone"]["embedding_std"])
    except (KeyError, TypeError, ValueError):
        return None


def _curves(record: Record) -> Iterator[str]:
    curves, config = record.result.curves, record.cell
    lengths = {name: len(curve) for name, curve in curves.items()}
    points = lengths.get("step", 0)
    for name, length in sorted(lengths.items()):
        if length != points:
            yield f"curves.{name} has {length} values, and curves.step {points}"
    if record.status != "done":
        return
    steps = config.training.steps if config.training else 0
    if record.result.steps != steps:
        yield f"steps is {record.result.steps}, expected {steps}"
    if config.training:
        for name in ("step", "loss", "gradient_norm"):
            if not curves.get(name):
                yield f"curves.{name} is missing"
        if curves["step"][-1] != steps:
            yield f"curves.step ends with {curves['step'][-1]}, expected {steps}"
    elif curves:
        yield f"curves has {min(curves)!r}, and the cell is not trained"


def _diagnostics(record: Record) -> Iterator[str]:
    found = record.result.diagnostics
    if record.cell.evaluation.judge != "test" or record.status == "out-of-memory":
        wanted: set[str] = set()
    else:
        wanted = {"stability", *(DIAGNOSTICS if record.status == "done" else ())}
    for key in sorted(found.keys() ^ wanted):
        yield f"diagnostics.{key} is {'missing' if key in wanted else 'not measured for this cell'}"
    for key, value in _leaves(found, "diagnostics"):
        if value is not None and type(value) not in (int, float):
            yield f"{key} is {_shown(value)}, expected a number or null"
    for key in sorted(wanted):
        if not isinstance(found[key], dict):
            yield f"diagnostics.{key} is {_shown(found[key])}, expected its measures by name"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def _shown(value: Any) -> str:
    return clipped(value) if isinstance(value, str) else repr(value)[:40]
