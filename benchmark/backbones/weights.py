"""Loads a backbone's initial weights from a file, and states what became of each tensor."""

from __future__ import annotations

import argparse
import functools
import io
from collections.abc import Mapping, Set
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from benchmark.backbones.base import Backbone
from benchmark.backbones.timm_backbone import TimmBackbone
from benchmark.config import weights as files
from benchmark.config.weights import Loaded, few
from benchmark.core.errors import UserError

VERSION = 1
"""Raised whenever the same file would give other weights."""


@functools.lru_cache(maxsize=1)
def read(weights: str, sha256: str) -> Mapping[str, Tensor]:
    """The tensors of the file with this checksum, on the CPU and by its own names.

    No code in it is run. Raises UserError for a file that is missing, not the declared one, or not a
    mapping of names to tensors (or a mapping with one such value, as `{model: …, epoch: …}`).
    """
    content = files.read(weights, sha256)
    try:
        with torch.device("cpu"):
            found = _parsed(content)
    except Exception as error:
        # Damaged files raise many kinds of errors.
        said = str(error).partition("\n")[0]
        raise UserError(
            f"weights is {weights!r}, expected the tensors of safetensors or torch.save alone "
            f"({type(error).__name__}: {said})"
        ) from None
    if _are_tensors(found):
        return dict(found)
    parts = found if isinstance(found, Mapping) else {}
    inner = [key for key, value in parts.items() if _are_tensors(value)]
    if len(inner) != 1:
        raise UserError(
            f"weights is {weights!r}, expected one mapping of names to tensors in it, found "
            f"{', '.join(map(str, inner)) or 'none'}; save the one you mean as safetensors"
        )
    return dict(parts[inner[0]])


def _parsed(content: bytes) -> Any:
    if content[8:9] == b"{":  # after the length of its header
        return safetensors.torch.load(content)
    # Many checkpoints have the arguments of their program in a Namespace, which holds values alone.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _are_tensors(value: Any) -> bool:
    """Whether a value is a mapping of names to tensors."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
        )
    )


@torch.no_grad()
def load(backbone: Backbone, state: Mapping[str, Tensor]) -> Loaded:
    """Gives a backbone the tensors of a state dict of timm, and returns what became of each.

    A first part that all names have in common, such as `module.`, is removed. timm's own conversion for
    the model follows (`TimmBackbone.converted`), which may change names and shapes. Then every tensor
    must have its place, of the same shape and at least its precision. Exceptions are the classifier and
    the scheme's norms, which take what has their own names and shapes; the rest is left out. Raises
    UserError, before anything is changed, for any other tensor that does not fit or is missing.
    """
    if not isinstance(backbone, TimmBackbone):
        raise UserError("the backbone is not a network of timm")
    own = backbone.tensors()
    changed: list[str] = []
    given = _unwrapped(state, {name.partition(".")[0] for name in own}, changed)
    found = backbone.converted(given)
    dropped = [name for name in given if name not in found]
    if new := [name for name in found if name not in given]:
        changed.append(f"names: timm makes {len(new)} tensors of {len(dropped)}")
        dropped = []
    in_norms = tuple(f"{path}." for path in backbone.norm_paths())
    optional = (*in_norms, *(f"{path}." for path in backbone.classifiers))

    fitting = {
        name: tensor
        for name, tensor in found.items()
        if name in own and tensor.shape == own[name].shape
    }
    for name, tensor in found.items():
        if name in own and name not in fitting and not name.startswith(in_norms):
            raise UserError(_shapes(name, tensor, own[name]))
    lacking = [name for name in own if name not in fitting]
    if missing := [name for name in lacking if not name.startswith(in_norms)]:
        if missing[0] in given:
            raise UserError(_shapes(missing[0], given[missing[0]], own[missing[0]]))
        raise UserError(f"the network has tensors that the file lacks: {few(missing)}")
    left_out = [name for name in found if name not in fitting]
    if unknown := [name for name in left_out if not name.startswith(optional)]:
        raise UserError(f"the file has tensors that the network lacks: {few(unknown)}")

    for name, tensor in fitting.items():
        before = given.get(name)
        if torch.promote_types(tensor.dtype, own[name].dtype) != own[name].dtype:
            raise UserError(
                f"{name} is {tensor.dtype} in the file, which {own[name].dtype} cannot hold exactly"
            )
        if before is None or before is tensor:
            continue
        if before.shape != tensor.shape:
            changed.append(f"{name}: {tuple(before.shape)} → {tuple(tensor.shape)}")
        elif not torch.equal(before.to(tensor.dtype), tensor):
            raise UserError(f"timm's conversion changes the values of {name} and not its shape")
    for name, tensor in fitting.items():
        own[name].copy_(tensor)
    return Loaded(
        tensors=len(fitting),
        left_out=tuple(dropped + left_out),
        initial=tuple(lacking),
        changed=tuple(changed),
    )


def _unwrapped(
    state: Mapping[str, Tensor], tops: Set[str], changed: list[str]
) -> Mapping[str, Tensor]:
    """The tensors without a first part of all names that is none of the network's, see `load`."""
    first, dot, _ = next(iter(state)).partition(".")
    prefix = first + dot
    if not dot or first in tops or not all(name.startswith(prefix) for name in state):
        return state
    changed.append(f"names: without {prefix}")
    shorter = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return _unwrapped(shorter, tops, changed)


def _shapes(name: str, file: Tensor, network: Tensor) -> str:
    return f"{name} is {tuple(file.shape)} in the file and {tuple(network.shape)} in the network"
