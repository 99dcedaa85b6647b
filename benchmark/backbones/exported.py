"""Backbones in the folders that `benchmark export` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from benchmark.backbones.base import ImageShape, channels_last
from benchmark.backbones.timm_backbone import TimmBackbone
from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.core.value import Value, first_error
from benchmark.norms.factory import SectionNorms

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
"""The files of a folder: tensors by timm's names, timm's configuration, the model card."""

KEY = "benchmark"
"""The key of `Exported` in the configuration, which timm does not read."""


class Exported(Value):
    """What builds an exported backbone again, and what it is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    cell: str
    """E.g. `mini/leaderboard/simclr-resnet-bn-s0`."""
    fingerprint: str
    dataset: str
    """Checksum of the images."""
    shape: tuple[int, int, int]
    """Channels, height and width of an image."""
    backbone: dict[str, Any]
    """Its component as `model`, and the options that are not at their defaults."""
    norms: dict[str, Any]
    """Of the backbone, as in a cell."""
    components: dict[str, int | str]
    """The versions of the backbone's component and of its norms."""


def load(folder: str | Path) -> TimmBackbone:
    """The backbone of a folder that `benchmark export` wrote, in evaluation mode.

    Its `features(images)` returns embeddings (N, width) by the name of their readout, of which `pooled`
    is the one that ranks; images (N, C, H, W) are standardised as the model card says. Raises UserError
    for another or a damaged folder, and for components of another version.
    """
    folder = Path(folder)
    try:
        raw = json.loads((folder / CONFIG).read_bytes())[KEY]
        state = load_file(folder / WEIGHTS)
        found = Exported.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{folder}: {CONFIG}: {KEY}: {first_error(error, Exported, raw)}") from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: expected a folder of `benchmark export` ({type(error).__name__}: {error})"
        ) from None
    now = components(found.backbone, found.norms)
    for name, version in found.components.items():
        if now.get(name) != version:
            raise UserError(f"{folder}: made by {name} {version}, and this is {now.get(name)}")
    norms = SectionNorms("backbone", found.norms)
    options = {key: value for key, value in found.backbone.items() if key != "model"}
    backbone: TimmBackbone = registry.build(
        "backbone", found.backbone["model"], ImageShape(*found.shape), norms, **options
    )
    own = backbone.tensors()
    if {name: tensor.shape for name, tensor in own.items()} != {
        name: tensor.shape for name, tensor in state.items()
    }:
        raise UserError(f"{folder}: {WEIGHTS} has other tensors than {CONFIG} describes")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
    backbone.eval()
    return channels_last(backbone)


def components(backbone: Mapping[str, Any], norms: Mapping[str, Any]) -> dict[str, int | str]:
    """The versions of a backbone's component and of its norms, as in a cell."""
    found = registry.versions("backbone", backbone["model"])
    for norm in (norms, *norms.get("parts", ())):
        found |= registry.versions("norm", norm["norm"])
    return found
