"""A training run as plain facts: its names, its configuration and its fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from benchmark.core import canonical_json
from benchmark.planning.configuration import Configuration

OUT_OF_MEMORY: Final = "out-of-memory"
FINAL = ("done", "diverged", OUT_OF_MEMORY)
"""Statuses that are results. A cell with the status `crashed` is trained again."""


@dataclass(frozen=True)
class Row:
    """A row of a table, which several seeds share."""

    method: str
    backbone: str
    scheme: str

    def __str__(self) -> str:
        return f"{self.method}-{self.backbone}-{self.scheme}"


@dataclass(frozen=True)
class Names:
    """The names of a cell in an experiment."""

    track: str
    experiment: str
    method: str
    backbone: str
    scheme: str
    seed: int
    label: str
    """Its name within the experiment, e.g. `simclr-resnet-bn-s0`; also a file name."""

    @property
    def name(self) -> str:
        """E.g. `mini/leaderboard/simclr-resnet-bn-s0`."""
        return f"{self.track}/{self.experiment}/{self.label}"

    @property
    def row(self) -> Row:
        """Its row of the table."""
        return Row(self.method, self.backbone, self.scheme)


def fingerprint_of(config: Any, components: Any, dataset: Any) -> str:
    """See `Task.fingerprint`; the configuration as JSON."""
    return canonical_json.checksum({"config": config, "components": components, "dataset": dataset})


@dataclass(frozen=True)
class Cell(Names):
    """One training run with all its settings."""

    config: Configuration
    components: Mapping[str, int | str]
    """Versions of its components, see `benchmark.components.registry.versions`."""
    weights: str | None = None
    """Where the file with the backbone's initial weights is; of the file only its checksum counts."""

    def on(self, dataset: str) -> Task:
        """The cell with the checksum of its images."""
        return Task(self, dataset)


@dataclass(frozen=True)
class Task:
    """A cell and the images it is trained on. A record is the result of a task."""

    cell: Cell
    dataset: str
    """Checksum of the images."""

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over configuration, component versions and the dataset's checksum.

        Names are left out: two experiments that ask for the same training run share its record.
        """
        return fingerprint_of(self.cell.config.as_json(), self.cell.components, self.dataset)

    @cached_property
    def training_key(self) -> str:
        """The fingerprint of the training alone, without what is measured afterwards."""
        config = self.cell.config.as_json()
        del config["evaluation"]
        measured = ("evaluation", "diagnostics", "finetune")
        components = {
            key: v for key, v in self.cell.components.items() if key.split()[0] not in measured
        }
        return canonical_json.checksum(
            {"training": config, "components": components, "dataset": self.dataset}
        )


def tasks(cells: Iterable[Cell], dataset: str) -> list[Task]:
    """The cells with the checksum of their images."""
    return [cell.on(dataset) for cell in cells]
