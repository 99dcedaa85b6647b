"""Every test runs under the settings that cells are trained with, set before torch is loaded."""

from __future__ import annotations

from benchmark import runtime

runtime.prepare()
runtime.start("cpu")
