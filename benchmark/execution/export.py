"""Writes the evaluated backbone of a cell as a folder that timm, or the benchmark, loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmark.backbones.base import channels_last
from benchmark.backbones.exported import CARD, CONFIG, KEY, WEIGHTS, Exported, components
from benchmark.backbones.timm_backbone import TimmBackbone
from benchmark.backbones.timm_model import REFUSED
from benchmark.core import canonical_json, determinism
from benchmark.core.errors import UserError
from benchmark.data.load import load
from benchmark.data.manifest import Manifest
from benchmark.data.standardise import standardiser
from benchmark.data.storage import Splits
from benchmark.evaluation.features import in_parts, reestimate
from benchmark.planning.cell import Task
from benchmark.report.model_card import card, licence_of
from benchmark.results.records import Record, Store
from benchmark.training import network
from benchmark.training.checkpoint import load_network

COMPARED = 64
"""Images whose embeddings must be the same, bit for bit, in the model that timm builds."""

UNKNOWN = "ssl-norm-benchmark"
"""In the place of a model's name where timm has none, so that timm refuses the folder."""


def export(
    task: Task, record: Record, data: Path, store: Store, target: Path, device_name: str
) -> bool:
    """Writes the folder `target`, all of it or nothing; returns whether timm alone can load it.

    The weights are the evaluated ones, with BN statistics re-estimated as for the ranking metric. timm
    can load the folder if a model of timm has the same tensors and gives `COMPARED` images of the
    training split the same embeddings. Raises UserError if the final state is damaged.
    """
    device = determinism.start(device_name)
    splits = load(data, ("train",), "auto", device)
    if splits.manifest.sha256 != task.dataset:
        raise UserError(f"{data}: the images changed since the cell was planned")
    standardise = standardiser(splits.manifest, device, task.cell.config.image_size)
    backbone = _evaluated(task, splits, store, standardise, device)
    state = {name: value.cpu().contiguous() for name, value in backbone.tensors().items()}
    described = _described(task, splits.manifest)
    images = next(in_parts(splits.images["train"][:COMPARED], standardise))
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by an export that was killed
    try:
        part.mkdir(parents=True)
        save_file(state, part / WEIGHTS, metadata={"format": "pt"})
        (part / WEIGHTS).chmod(0o644)
        licence = licence_of(task.cell.config)
        plain = _write_plain(part, backbone, described, splits.manifest, licence, images)
        if not plain:
            settings = {"architecture": UNKNOWN, "num_features": backbone.width, KEY: described}
            canonical_json.write(part / CONFIG, canonical_json.pretty(settings))
        program = store.run_log(task.fingerprint).program
        text = card(task, record, splits.manifest, backbone.width, plain, program)
        canonical_json.write(part / CARD, text)
        if target.is_dir():
            target.rmdir()  # it is empty; not every system replaces it
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return plain


def _evaluated(
    task: Task,
    splits: Splits,
    store: Store,
    standardise: Callable[[Tensor], Tensor],
    device: torch.device,
) -> TimmBackbone:
    """The backbone that the ranking metric is about, in evaluation mode."""
    cell, key = task.cell, task.training_key
    if cell.config.training:
        # The final state replaces the initial weights, whose file need not be here.
        drawn = cell.config.backbone.model_copy(update={"weights_sha256": None})
        cell = replace(cell, config=cell.config.model_copy(update={"backbone": drawn}))
    method = network.build(cell, splits.manifest)
    if cell.config.training and not load_network(store.trained(key), key, method):
        raise UserError(f"{store.trained(key)} is damaged: delete it and train {cell.name} again")
    method = channels_last(method.to(device))
    backbone = method.eval_backbone
    if not isinstance(backbone, TimmBackbone):
        raise UserError(
            f"{cell.name}: its backbone is not a network of timm, which alone is exported"
        )
    batch = cell.config.evaluation.precise_bn_batch_size
    reestimate(backbone, splits.images["train"], batch, standardise, method.encode)
    backbone.eval()
    return backbone


def _described(task: Task, manifest: Manifest) -> dict[str, Any]:
    config = task.cell.config
    backbone, norms = config.backbone.as_json(), config.norms["backbone"].as_json()
    backbone.pop("weights_sha256", None)
    found = Exported(
        cell=task.cell.name,
        fingerprint=task.fingerprint,
        dataset=task.dataset,
        shape=network.image_shape(task.cell.config, manifest),
        backbone=backbone,
        norms=norms,
        components=components(backbone, norms),
    )
    return found.as_json()


@torch.no_grad()
def _write_plain(
    folder: Path,
    backbone: TimmBackbone,
    described: Mapping[str, Any],
    manifest: Manifest,
    licence: str,
    images: Tensor,
) -> bool:
    """Writes the configuration of timm's model that is the same network, if there is one."""
    if backbone.like is None:
        return False
    name, arguments = backbone.like
    own = timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    source = {
        "input_size": manifest.shape,
        "fixed_input_size": "img_size" in arguments,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": manifest.mean,
        "std": [deviation or 1.0 for deviation in manifest.std],
        "num_classes": 0,
        "first_conv": own.first_conv,
        "classifier": own.classifier,
        "license": licence,
    }
    settings = {
        "architecture": name,
        "num_classes": 0,
        "num_features": backbone.width,
        "pretrained_cfg": source,
        "model_args": arguments,
        KEY: described,
    }
    try:
        text = canonical_json.pretty(json.loads(json.dumps(settings)))
        canonical_json.write(folder / CONFIG, text)
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    except REFUSED:  # another network, or arguments that JSON does not have
        return False
    model = channels_last(model.to(images.device)).eval()
    return torch.equal(model(images), backbone.features(images)["pooled"])
