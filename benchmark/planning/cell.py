"""A training as plain facts: what it is called, what decides its result, and its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.core import canonical_json

FINAL = ("done", "diverged", "out-of-memory")
"""Statuses that are results. `crashed` is not: such a cell is trained again."""


@dataclass(frozen=True)
class Names:
    """What a cell is called in the experiment that asks for it."""

    track: str
    experiment: str
    method: str
    backbone: str
    scheme: str
    seed: int
    label: str
    """What tells it from its neighbours, e.g. `simclr-resnet-bn-s0`; a file name."""

    @property
    def name(self) -> str:
        """E.g. `mini/leaderboard/simclr-resnet-bn-s0`."""
        return f"{self.track}/{self.experiment}/{self.label}"


def fingerprint_of(config: Any, components: Any, dataset: Any) -> str:
    """See `Cell.fingerprint`."""
    return canonical_json.checksum({"config": config, "components": components, "dataset": dataset})


@dataclass(frozen=True)
class Cell(Names):
    """One training, fully resolved, seed included."""

    config: Mapping[str, Any]
    """Everything that decides the result, as plain JSON values."""
    components: Mapping[str, int | str]
    """The version of every component the cell uses, see `benchmark.components.registry.versions`."""

    def fingerprint(self, dataset: str) -> str:
        """sha256 over configuration, component versions and the dataset's checksum.

        Names are left out: two experiments that ask for the same training share its record.
        """
        return fingerprint_of(self.config, self.components, dataset)

    def training_key(self, dataset: str) -> str:
        """The fingerprint of the training alone, whatever is measured on its result."""
        config = {key: value for key, value in self.config.items() if key != "evaluation"}
        measured = ("evaluation", "diagnostics")
        components = {key: v for key, v in self.components.items() if key not in measured}
        return canonical_json.checksum(
            {"training": config, "components": components, "dataset": dataset}
        )

    def as_json(self) -> str:
        """For a worker process."""
        return json.dumps(self.__dict__)

    @staticmethod
    def from_json(text: str) -> Cell:
        """The inverse of `as_json`."""
        return Cell(**json.loads(text))


@dataclass(frozen=True)
class Row:
    """One line of a table: what its seeds have in common."""

    method: str
    backbone: str
    scheme: str

    def __str__(self) -> str:
        return f"{self.method}-{self.backbone}-{self.scheme}"
