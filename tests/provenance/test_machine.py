"""What a machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.core import determinism
from benchmark.provenance import machine as module
from benchmark.provenance.machine import Energy, machine

CPU = torch.device("cpu")


def test_the_machine_is_named_with_its_settings() -> None:
    device = determinism.start("cpu")
    found = machine(device)
    assert found.device == "cpu"
    assert found.threads == 1
    assert found.deterministic is True
    assert found.settings == determinism.settings()
    assert found.host
    assert found.cpu


def counter(folder: Path, name: str, microjoules: int) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{microjoules}\n")


def test_energy_is_the_difference_of_whole_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RAPL", tmp_path)
    counter(tmp_path, "intel-rapl:0", 1_000_000)
    counter(tmp_path, "intel-rapl:1", 5_000_000)
    counter(tmp_path, "intel-rapl:0:0", 7_000_000)
    begun = Energy(CPU)
    counter(tmp_path, "intel-rapl:0", 3_500_000)
    counter(tmp_path, "intel-rapl:1", 6_000_000)
    counter(tmp_path, "intel-rapl:0:0", 9_000_000)
    assert begun.joules() == pytest.approx(3.5)


def test_energy_that_is_not_told_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RAPL", tmp_path)
    assert Energy(CPU).joules() is None
    counter(tmp_path, "intel-rapl:0", 2_000_000)
    begun = Energy(CPU)
    # The counter has run over.
    counter(tmp_path, "intel-rapl:0", 1_000_000)
    assert begun.joules() is None
