"""The project's params, to make up published records for."""

from __future__ import annotations

from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmark.config.schema import Params
from tests.helpers.made_up import PROJECT, params_of


@pytest.fixture(scope="session")
def raw() -> dict[str, Any]:
    """The project's params.yaml."""
    loaded = YAML(typ="safe", pure=True).load((PROJECT / "params.yaml").read_text("utf-8"))
    return dict(loaded)


@pytest.fixture
def params(raw: dict[str, Any]) -> Params:
    """The leaderboard as the project asks for it."""
    return params_of(raw)
