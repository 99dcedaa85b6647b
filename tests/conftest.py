"""Every test runs under the settings that cells are trained with, set before torch is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.core import determinism

determinism.prepare()
determinism.start("cpu")

LONGEST = [
    "execution/test_local.py", "faults/test_killed.py", "project/test_pipeline.py",
    "execution/test_bits.py", "faults/test_refused.py", "planning/test_plan.py",
    "training/test_checkpoint.py", "diagnostics/test_diagnose.py", "faults/test_together.py",
    "project/test_tutorials.py", "tracking/test_sync.py", "components/test_plugins.py",
    "training/test_network.py", "faults/test_failing_cells.py",
]  # fmt: skip
"""Files that take longest. They come first, so that no worker starts one when the others are done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))
