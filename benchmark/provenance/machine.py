"""Facts about this machine, and the energy that it has used."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmark.core import determinism

RAPL = Path("/sys/class/powercap")
"""The folder of the energy counters of a CPU on Linux, which may need permission."""


class Machine(BaseModel):
    """A machine that trains. A reconstructed one has `cpu_vendor` alone."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    host: str | None = None
    platform: str | None = None
    python: str | None = None
    cpu: str | None = None
    """Model of the CPU."""
    cpu_vendor: str | None = None
    """E.g. `AuthenticAMD`."""
    cores: int | None = None
    device: str | None = None
    """`cpu`, or the model of the GPU."""
    driver: str | None = None
    """Version of the GPU's driver."""
    threads: int | None = None
    deterministic: bool | None = None
    """Whether torch was told to use deterministic algorithms."""
    settings: dict[str, str | None] = {}
    """The environment variables that are set for determinism."""


def machine(device: Any) -> Machine:
    """This machine; `device` is a torch.device."""
    import torch

    vendor, model = processor()
    cuda = device.type == "cuda"
    return Machine(
        host=platform.node(),
        platform=platform.platform(),
        python=platform.python_version(),
        cpu=model,
        cpu_vendor=vendor,
        cores=os.cpu_count(),
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        driver=_driver() if cuda else None,
        threads=torch.get_num_threads(),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        settings={name: os.environ.get(name) for name in determinism.settings()},
    )


def processor() -> tuple[str | None, str | None]:
    """Vendor (`AuthenticAMD`, `GenuineIntel`) and model of the CPU; None if unknown."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found.get("vendor_id"), found.get("model name") or platform.processor() or None


def _driver() -> str | None:
    with contextlib.suppress(OSError):
        # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu …", worded otherwise for
        # open kernel modules.
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
        return next((w for w in words if w[0].isdigit() and w.count(".") >= 1), None)
    return None


class Energy:
    """Joules of the whole device, other programs included, since this object was made."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.before = self._counters()

    def joules(self) -> float | None:
        """None if the device does not measure energy, or if a counter was reset."""
        after = self._counters()
        spent = [
            after[name] - start
            for name, start in self.before.items()
            if name in after and after[name] >= start
        ]
        return sum(spent) if spent and len(spent) == len(self.before) else None

    def _counters(self) -> dict[str, float]:
        return _gpu_joules(self.device) if self.device.type == "cuda" else _cpu_joules()


def _cpu_joules() -> dict[str, float]:
    found = {}
    # intel-rapl:0, intel-rapl:1 are whole packages; names with a second colon are their parts.
    for folder in RAPL.glob("*-rapl:*"):
        if folder.name.count(":") == 1:
            with contextlib.suppress(OSError, ValueError):
                found[folder.name] = int((folder / "energy_uj").read_text()) / 1e6
    return found


def _gpu_joules(device: Any) -> dict[str, float]:
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        try:
            # By its UUID: the numbers of CUDA and NVML differ if some GPUs are hidden.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
            return {uuid: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3}
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no library, no permission, or an older GPU
        return {}
