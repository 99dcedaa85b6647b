"""Builds a cell's network and gives it its initial weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from benchmark.backbones import weights
from benchmark.backbones.base import ImageShape
from benchmark.components import registry
from benchmark.core import ranks
from benchmark.core.errors import UserError, within
from benchmark.core.randomness import keyed
from benchmark.data.manifest import Manifest
from benchmark.methods.base import Context, Method, Policy
from benchmark.norms.across import spread
from benchmark.norms.factory import SectionNorms
from benchmark.planning.cell import Cell
from benchmark.planning.configuration import Configuration
from benchmark.planning.sizes import check as check_sizes
from benchmark.planning.sizes import whole_batch_loss


def build(cell: Cell, manifest: Manifest) -> Method:
    """The network of a cell for the images of `manifest`; raises UserError if they do not fit.

    So does a file with the backbone's initial weights, if the cell has one.
    """
    config = cell.config
    shape = image_shape(config, manifest)
    count = manifest.trained(labels=True)
    unlabelled = manifest.trained(labels=False) - count
    side = min(manifest.shape[1:])
    check_sizes(config, count, side, len(manifest.classes), unlabelled)
    labelled = registry.facts("method", config.method.name).get("labels", False)
    norms = {name: SectionNorms(name, norm.as_json()) for name, norm in config.norms.items()}
    training = config.training
    batch = training.batch_size if training else 0
    if training:
        for section in norms.values():
            section.check_batch(batch)
        _check_views(config, shape, norms["backbone"])
    backbone = registry.build(
        "backbone", config.backbone.model, shape, norms.get("backbone"), **config.backbone.options
    )
    if tuned := config.evaluation.finetune:
        if tuned.norms == "batch":
            norms["backbone"].check_batch(tuned.batch_size)
        if tuned.layer_decay < 1:
            backbone.layers()
    initialized = registry.facts("backbone", config.backbone.model).get("initialized", False)
    if sha256 := config.backbone.weights_sha256:
        with within(f"backbones.{cell.backbone}"):
            backbone.loaded = weights.load(backbone, weights.read(str(cell.weights), sha256))
        initialized = True
    kept = set(backbone.parameters())
    teacher = training.teacher if training else None
    context = Context(
        shape=shape,
        classes=len(manifest.classes),
        training_images=manifest.trained(labelled),
        batch=batch,
        norms=norms,
        view_batching=training.view_batching if training else "separate",
        teacher=Policy(**teacher.as_json()) if teacher else Policy("batch", False),
        whole_batch_loss=whole_batch_loss(config),
    )
    method: Method = registry.build(
        "method", config.method.name, backbone, context, **config.method.options
    )
    initialise(method, config.seed, kept if initialized else backbone.draw(config.seed))
    method.start()
    if ranks.size() > 1:
        spread(method, batch)
    return method


def image_shape(config: Configuration, manifest: Manifest) -> ImageShape:
    """The shape of the images that the network sees."""
    channels, height, width = manifest.shape
    size = config.image_size
    return ImageShape(channels, size or height, size or width)


def _check_views(config: Configuration, shape: ImageShape, norms: SectionNorms) -> None:
    """Raises UserError if a backbone for images of the size of a smaller view cannot be built.

    Its patches may not divide the view, or a norm may not be defined on the smaller maps.
    """
    for size in config.recipe.sizes:
        if (size, size) == (shape.height, shape.width):
            continue
        small = ImageShape(shape.channels, size, size)
        try:
            with torch.device("meta"):
                registry.build(
                    "backbone", config.backbone.model, small, norms, **config.backbone.options
                )
        except UserError as error:
            raise UserError(f"views of size {size}: {error}") from None


TOKENS = {"pos_embed": 0.02, "cls_token": 0.02, "mask_token": 0.02, "mask_patch": 1.0}
"""Initial standard deviations: .02 for tokens, as in ViT and MAE; 1 for a patch of pixels."""


@torch.no_grad()
def initialise(
    network: nn.Module, seed: int, initialized: AbstractSet[nn.Parameter] = frozenset()
) -> None:
    """Draws every weight outside norms from a generator keyed by the seed and the weight's own name.

    So a weight's initial value does not depend on norms, heads or other layers. Convolutions: He normal
    by fan-out, as timm's ResNet. Linear layers and the patch embedding: Xavier uniform, as MAE
    (2111.06377, A.1) and MoCo v3 (2104.02057); queries, keys and values are three layers of one shape,
    as in MoCo v3's code, though timm stores them in one matrix. Tokens and positions: normal, see
    `TOKENS`. Norms, and the parameters in `initialized`, are not changed: those that a backbone has
    loaded or drawn itself (`Backbone.draw`).
    """
    for name, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if parameter in initialized:
                continue
            generator = keyed(seed, "weights", f"{name}.{key}")
            if key in TOKENS:
                nn.init.normal_(parameter, std=TOKENS[key], generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                if key == "bias":
                    nn.init.zeros_(parameter)
                elif isinstance(module, nn.Linear) or "patch_embed" in name:
                    parts = parameter.chunk(3) if name.endswith(".qkv") else [parameter]
                    for part in parts:
                        nn.init.xavier_uniform_(part.flatten(1), generator=generator)
                else:
                    nn.init.kaiming_normal_(
                        parameter, mode="fan_out", nonlinearity="relu", generator=generator
                    )


def parameter_groups(
    network: nn.Module,
    weight_decay: float,
    on: str,
    constant: Collection[str] = (),
    vector_rate: float = 1.0,
    factors: Mapping[nn.Parameter, float] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Parameters with and without weight decay (`decays`), then those whose rate is another one.

    `on` is `all`, or `weights`: those of two or more dimensions. A rule by dimension, not by class or
    name, keeps the groups the same when the norm changes. `vector_rate` is the `rate_factor` of those of
    fewer dimensions; `factors` has further factors of single parameters. `constant` names the sections
    whose learning rate does not follow the schedule.
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {
        (decays, False, 1.0): [] for decays in (True, False)
    }
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = on == "all" or parameter.ndim >= 2
            factor = 1.0 if parameter.ndim >= 2 else vector_rate
            factor *= factors.get(parameter, 1.0)
            kind = decays, name.partition(".")[0] in constant, factor
            groups.setdefault(kind, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "decays": decays,
            "constant": is_constant,
            "rate_factor": factor,
        }
        for (decays, is_constant, factor), parameters in groups.items()
    ]
