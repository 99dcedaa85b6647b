"""Every test runs under the settings that cells are trained with, set before torch is loaded."""

from __future__ import annotations

from benchmark.core import determinism

determinism.prepare()
determinism.start("cpu")
