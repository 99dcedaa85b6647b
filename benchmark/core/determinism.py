"""Fixes settings that differ between machines, before any numerical library is loaded.

Another instruction set or number of threads gives other bits. torch, MKL, oneDNN and OpenBLAS read these
settings when they load, so `prepare` must run before their import.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from benchmark.core.errors import UserError, unknown

THREADS = 1
"""A CPU cell uses one thread: results do not depend on the number of cores; cells run in parallel."""

DEVICES = ("auto", "cpu", "cuda")
"""What `--device` may be."""

_ALWAYS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Memory in large pages, which is faster to get; no result depends on it.
    "THP_MEM_ALLOC_ENABLE": "1",
    # cuBLAS is deterministic only with a fixed workspace.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
_X86 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


def settings() -> dict[str, str]:
    """The environment variables that `prepare` sets on this kind of machine."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return _ALWAYS | (_X86 if x86 else {})


def prepare() -> None:
    """Sets the variables; RuntimeError if torch was loaded before with others."""
    wanted = settings()
    late = [name for name, value in wanted.items() if os.environ.get(name) != value]
    if late and "torch" in sys.modules:
        raise RuntimeError(f"torch was imported before {', '.join(late)} could be set")
    os.environ.update(wanted)


def check_device(name: str) -> None:
    """Raises UserError for a device that no command knows; needs no torch."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)


def start(device: str = "auto") -> Any:
    """Makes torch deterministic and single-threaded, and returns the torch.device to train on."""
    check_device(device)
    prepare()
    import torch

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    # A guard for programs that read uninitialized memory; it costs 2 to 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set on its module's class
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': this machine has no CUDA GPU that torch can use")
    return torch.device(device)


def environment(device: Any, least: int = 1, most: int | None = None) -> dict[str, Any]:
    """What decides the bits of a result besides the cell's configuration.

    From `least` to `most` devices trained it together, by default all the time as many.
    """
    import timm
    import torch

    facts: dict[str, Any] = {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.split("+")[0],
        "timm": timm.__version__,
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    most = least if most is None else most
    if most > 1:
        facts["devices"] = least if least == most else f"{least} to {most}"
    return facts
