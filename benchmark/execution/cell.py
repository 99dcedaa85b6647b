"""One cell from its configuration to its record."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.backbones.base import channels_last
from benchmark.components import registry
from benchmark.core import determinism, ranks
from benchmark.core.errors import UserError
from benchmark.data.load import load
from benchmark.data.manifest import UNLABELLED, Storage
from benchmark.data.standardise import standardiser
from benchmark.data.storage import Images, Labelled, Splits
from benchmark.diagnostics import stability
from benchmark.diagnostics.diagnose import diagnose
from benchmark.evaluation.evaluate import evaluate, transfer
from benchmark.evaluation.finetune import finetune, steps_of, tunings
from benchmark.evaluation.online_knn import counts, make_online_knn
from benchmark.methods.base import Method
from benchmark.planning.cell import OUT_OF_MEMORY, Task
from benchmark.planning.configuration import TrainingConfig
from benchmark.provenance.machine import Energy, machine
from benchmark.provenance.program import program
from benchmark.provenance.trace import Tracer
from benchmark.results.records import Record, Result, RunLog, Status, Store, Watched
from benchmark.training import network
from benchmark.training.acceleration import accelerated
from benchmark.training.curves import UPDATE, stretches
from benchmark.training.loop import MARKS, Progress, Trained, train

UNTRAINED = {name: torch.empty(0) for name in ("loss", "gradient_norm")}
"""The curves of a control that is not trained."""


def run(
    task: Task,
    data: Path,
    store: Store,
    device: torch.device,
    progress: Progress,
    checkpoint_steps: int | None = None,
    storage: Storage = "auto",
) -> Record:
    """Trains and evaluates a cell, stores its record and run log, and returns the record.

    `storage` is where the images are kept, which changes no result. Running out of memory and a loss
    that is not finite are results; other exceptions propagate. Raises `training.loop.Interrupted` if
    `progress` says to stop. Processes that train the cell together (`core.ranks`) all call this with the
    same arguments; rank 0 alone stores anything, and its `progress` decides for all.
    """
    registry.check_unchanged(task.cell.components)
    judge = task.cell.config.evaluation.judge
    labelled = bool(registry.facts("method", task.cell.config.method.name).get("labels"))
    further = () if labelled or not task.cell.config.training else (UNLABELLED,)
    names = tuple(dict.fromkeys(("train", "validation", judge, *further)))
    splits = _load(data, task.dataset, names, storage, device)
    begun, cpu, energy = time.time(), time.process_time(), Energy(device)
    try:
        status, result, training_log = _result(
            task,
            data,
            splits,
            splits.trained(labelled),
            store,
            device,
            progress,
            checkpoint_steps,
            storage,
        )
    except (MemoryError, OSError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        status, training_log = OUT_OF_MEMORY, {}
        result = Result(metrics={}, curves={}, cause="out of memory")
    devices = training_log.pop("devices", (ranks.size(),))
    entry = Record.of(task, determinism.environment(device, *devices), status, result)
    joules = energy.joules()
    if device.type == "cuda" and status != OUT_OF_MEMORY:  # then the others are elsewhere
        joules = ranks.total(joules)
    if ranks.rank():
        return entry
    log = RunLog(
        started=begun,
        wall_seconds=time.time() - begun,
        cpu_seconds=time.process_time() - cpu,
        energy_joules=joules,
        program=program(),
        machine=machine(device),
        **training_log,
    )
    store.put(entry, log)
    return entry


def _result(
    task: Task,
    data: Path,
    splits: Splits,
    trained_on: tuple[Images, Tensor],
    store: Store,
    device: torch.device,
    progress: Progress,
    checkpoint_steps: int | None,
    storage: Storage,
) -> tuple[Status, Result, dict[str, Any]]:
    cell = task.cell
    standardise = standardiser(splits.manifest, device, cell.config.image_size)
    on_device = _on_device(splits, device)

    def initial() -> Method:
        return channels_last(network.build(cell, splits.manifest).to(device))

    method = initial()
    status: Status = "done"
    log: dict[str, Any] = {}
    if loaded := method.backbone.loaded:
        log["weights"] = loaded
    curves: Mapping[str, Tensor] = UNTRAINED
    spec = cell.config.evaluation
    judged = spec.judge == "test"  # a trial of a sweep is scored by its nearest neighbours alone
    key = task.training_key
    trace = Tracer(store.trace(key) if judged and ranks.rank() == 0 else None)
    tuned = (
        tunings(spec.finetune, on_device["train"], splits.manifest.seed) if spec.finetune else []
    )
    # The steps of fine-tuning follow those of the training in one count.
    steps = cell.config.training.steps if cell.config.training else 0
    total = steps + steps_of(tuned)
    trace("weights", sorted(method.state_dict().items()))
    # A record of a finished cell also has the keys that are at their default.
    result = Result().model_dump()
    result["parameters"] = sum(p.numel() for p in method.backbone.parameters())
    if recipe := cell.config.training:
        begun = time.perf_counter()
        online_knn, final = None, None
        if judged:
            online_knn = make_online_knn(
                method.eval_backbone, on_device["train"], on_device["validation"],
                spec.knn_k[0], spec.knn_temperature,
                spec.precise_bn_batch_size, standardise, method.encode,
                counts(recipe.images_seen, recipe.batch_size, len(MARKS)),
            )  # fmt: skip
            final = store.trained(key), key
        with accelerated(method, recipe, device) as faster:
            trained = train(
                method, recipe, cell.config.seed, trained_on[0], trained_on[1].to(device),
                standardise, device, store.checkpoint(task.fingerprint), task.fingerprint,
                lambda done, _, loss: progress(done, total, loss), checkpoint_steps,
                online_knn, final, trace, faster,
            )  # fmt: skip
        log |= _training_log(recipe, trained, time.perf_counter() - begun)
        log["devices"] = trained.devices
        status, curves = trained.status, trained.curves
        scores = [score if math.isfinite(score) else None for score in trained.online_knn.tolist()]
        watched = Watched(share=MARKS, knn=tuple(scores)) if judged else None
        result |= {
            "steps": trained.steps,
            "flops_per_step": trained.flops_per_step,
            "first_non_finite_step": trained.first_non_finite,
            "curves": thinned(trained),
            "watched": watched,
        }
        if status == "diverged":
            result["cause"] = f"the loss was not finite at step {trained.first_non_finite}"
    if judged:
        result["diagnostics"] = {"stability": stability.measures(curves)}
    if status == "done":
        if judged:
            # Before the evaluation, which re-estimates BN's statistics.
            with ranks.alone():
                result["diagnostics"] |= diagnose(
                    method, cell.config, on_device, standardise, initial
                )
        found = evaluate(
            method.eval_backbone, on_device, spec, standardise, method.encode, splits.manifest.seed
        )
        result["metrics"], result["correct"] = found.metrics, found.correct
        for track, sha256 in spec.transfer.items():
            names = tuple(name for name in on_device if name != UNLABELLED)
            other = _load(data.with_name(track), sha256, names, storage, device)
            others = _on_device(other, device)
            result["metrics"] |= transfer(
                method.eval_backbone, track, others, method.context.shape, spec, standardise
            )
        if tuned:
            result["metrics"] |= finetune(
                method.eval_backbone, method.context, tuned, on_device, spec, cell.config.seed,
                standardise, device, store.finetuning(task.fingerprint), task.fingerprint,
                lambda done, _, loss: progress(steps + done, total, loss),
            )  # fmt: skip
    return status, Result(**result), log | {"trace": trace.found}


def _load(
    folder: Path, sha256: str, names: Sequence[str], storage: Storage, device: torch.device
) -> Splits:
    """The named splits of the built images with that checksum; UserError if they are others."""
    splits = load(folder, names, storage, device)
    if splits.manifest.sha256 != sha256:
        raise UserError(f"{folder}: the images changed since the cell was planned")
    return splits


def _on_device(splits: Splits, device: torch.device) -> dict[str, Labelled]:
    return {
        name: (images, splits.labels[name].to(device)) for name, images in splits.images.items()
    }


def thinned(trained: Trained) -> dict[str, list[float | None]]:
    """Each curve as means over equal stretches, with the `step` that ends each stretch.

    Values that are not finite, or not defined, are None.
    """
    ends = stretches(len(trained.curves["loss"]))
    starts = [0, *ends[:-1]]
    curves: dict[str, list[float | None]] = {"step": [float(end) for end in ends]}
    for name, curve in trained.curves.items():
        # An update is measured once in each stretch, the rest is measured at every step.
        average = torch.nanmean if name.startswith(UPDATE) else torch.mean
        means = [float(average(curve[a:b].double())) for a, b in zip(starts, ends, strict=True)]
        curves[name] = [value if abs(value) < float("inf") else None for value in means]
    return curves


def _training_log(recipe: TrainingConfig, trained: Trained, seconds: float) -> dict[str, Any]:
    done = len(trained.curves["loss"]) - trained.resumed_at
    log: dict[str, Any] = {
        "training_seconds": seconds,
        "images_per_second": done * recipe.batch_size / max(seconds, 1e-9),
        "resumed_at_step": trained.resumed_at,
    }
    if torch.cuda.is_available():
        log["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return log


def _out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(text in str(error) for text in ("can't allocate memory", "out of memory"))
    )
