"""The project's params, to make up published records for."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.config.schema import Params
from tests.helpers import tiny
from tests.helpers.made_up import params_of


@pytest.fixture(scope="session")
def raw() -> dict[str, Any]:
    """The project's params.yaml."""
    return tiny.real()


@pytest.fixture
def params(raw: dict[str, Any]) -> Params:
    """The leaderboard as the project asks for it."""
    return params_of(raw)
