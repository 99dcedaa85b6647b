"""A training in the middle: saved whole or not at all, checked when read, and never unpickled."""

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
    """Writes weights, buffers, optimizer state and curves (or other tensors) after `step` steps.

    A training that is over needs no optimizer.
    """
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
    note = json.dumps({"fingerprint": fingerprint, "step": step, "sha256": digest})
    canonical_json.write(path, save(plain, metadata={"checkpoint": note}))


def load_checkpoint(
    path: Path,
    fingerprint: str,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    curves: dict[str, Tensor],
) -> int:
    """Restores what `save_checkpoint` wrote and returns the number of steps done, 0 if there is none.

    A file of another fingerprint, one that cannot be read, and one whose checksum does not hold (a byte
    that a disk or a copy has changed is still a valid number) count as none.
    """
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            note = json.loads((file.metadata() or {}).get("checkpoint", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, ValueError, OSError):
        return 0
    if not isinstance(note, dict) or note.get("fingerprint") != fingerprint:
        return 0
    if note.get("sha256") != _checksum(fingerprint, note.get("step"), tensors):
        return 0
    network.load_state_dict(
        {
            key.removeprefix("network/"): v
            for key, v in tensors.items()
            if key.startswith("network/")
        }
    )
    state = optimizer.state_dict()
    restored: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            restored.setdefault(int(index), {})[name] = value
    state["state"] = restored
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            held = optimizer.state[parameter]
            for name, value in held.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # Fused optimizers walk parameter and state side by side in memory, so the state
                    # must be laid out like the parameter (channels_last), as it was when saved.
                    held[name] = torch.empty_like(parameter).copy_(value)
    for name, curve in curves.items():
        curve.copy_(tensors[f"curve/{name}"])
    return int(note["step"])


def _checksum(fingerprint: str, step: object, tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the names, types, shapes and bytes of contiguous tensors, and what they belong to."""
    digest = hashlib.sha256(json.dumps([fingerprint, step]).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
