"""Checkpoints of a training run: written atomically, checked when read, and never unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmark.core import canonical_json


def save_checkpoint(
    path: Path,
    fingerprint: str,
    step: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    curves: dict[str, Tensor],
) -> None:
    """Writes weights, buffers, optimizer state (if any) and curves after `step` steps."""
    tensors = {f"network/{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"curve/{key}": value for key, value in curves.items()}
    states = optimizer.state_dict()["state"] if optimizer else {}
    for index, state in states.items():
        tensors |= {
            f"optimizer/{index}/{key}": value
            for key, value in state.items()
            if isinstance(value, Tensor)
        }
    plain = {key: value.detach().contiguous().cpu().clone() for key, value in tensors.items()}
    digest = _checksum(fingerprint, step, plain)
    header = json.dumps({"fingerprint": fingerprint, "step": step, "sha256": digest})
    canonical_json.write(path, save(plain, metadata={"checkpoint": header}))


def load_checkpoint(
    path: Path,
    fingerprint: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    curves: dict[str, Tensor],
) -> int:
    """Restores what `save_checkpoint` wrote; returns the number of steps done, 0 without a checkpoint.

    A file that is missing, cannot be read, has another fingerprint or does not match its checksum
    counts as none. A curve that a file of an earlier version lacks stays as it is.
    """
    read = _read(path, fingerprint)
    if read is None:
        return 0
    step, tensors = read
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        if part == "optimizer":
            index, _, name = name.partition("/")
            states.setdefault(int(index), {})[name] = value
    _load_network(network, tensors)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused optimizers walk parameter and state side by side in memory, so the state must
                # have the parameter's memory format (channels_last), as it had when saved.
                state[name] = torch.empty_like(parameter).copy_(value)
    for name, curve in curves.items():
        if (found := tensors.get(f"curve/{name}")) is not None:
            curve.copy_(found)
    return step


def load_network(path: Path, fingerprint: str, network: nn.Module) -> bool:
    """Restores the weights and buffers alone; returns whether there is a checkpoint, see above."""
    found = _read(path, fingerprint)
    if found is not None:
        _load_network(network, found[1])
    return found is not None


def _load_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    start = "network/"
    network.load_state_dict(
        {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
    )


def _read(path: Path, fingerprint: str) -> tuple[int, dict[str, Tensor]] | None:
    """The number of steps and the tensors of a file, None if it is missing, damaged or another's."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("checkpoint", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, ValueError, OSError):
        return None
    if not isinstance(header, dict) or header.get("fingerprint") != fingerprint:
        return None
    if header.get("sha256") != _checksum(fingerprint, header.get("step"), tensors):
        return None
    return int(header["step"]), tensors


def _checksum(fingerprint: str, step: object, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over fingerprint and step, and the names, types, shapes and bytes of contiguous tensors."""
    digest = hashlib.sha256(json.dumps([fingerprint, step]).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
