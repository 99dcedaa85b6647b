"""Records and run logs of cells, and the store that keeps them.

A record is deterministic: it holds configuration, versions, metrics and curves over steps. Everything
that differs between two runs of the same cell (times, host, throughput) is in the run log.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from benchmark.config.weights import Loaded
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.core.system import locked
from benchmark.core.value import Value
from benchmark.planning.cell import FINAL, Task
from benchmark.planning.configuration import Configuration
from benchmark.provenance.machine import Machine
from benchmark.provenance.program import Program

SCHEMA = 2

Status = Literal["done", "diverged", "out-of-memory", "crashed"]


class Watched(Value):
    """Nearest-neighbour accuracy during the training run, on a part of the validation split."""

    share: tuple[float, ...]
    """Share of the training run after which each accuracy was measured."""
    knn: tuple[float | None, ...]
    """In 0..1; null where an embedding was not finite."""


class Result(Value):
    """The result of a cell. A failed cell may lack keys, which then have their defaults."""

    metrics: dict[str, Any] = Field(default_factory=dict)
    """Accuracies in 0..1, null where not finite, see `evaluation.evaluate`."""
    correct: str | None = None
    """The test images that the nearest neighbours classify correctly, as hexadecimal bits."""
    diagnostics: dict[str, Any] = Field(default_factory=dict)
    """Only of a cell that is judged on the test split, see docs/diagnostics.md."""
    curves: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)
    """By name, each with one value for each entry of `step`."""
    watched: Watched | None = None
    steps: int = 0
    parameters: int | None = None
    """Of the backbone."""
    flops_per_step: int | None = None
    first_non_finite_step: int | None = None
    cause: str | None = None
    """Why a cell failed, in one line."""


class Record(Value):
    """A cell's record."""

    schema_: int = Field(SCHEMA, alias="schema")
    """Version of this layout."""
    fingerprint: str
    """sha256 of `cell`, `components` and `dataset`, see `planning.cell.Task`."""
    dataset: str
    """Checksum of the images."""
    cell: Configuration
    components: dict[str, int | str]
    """Versions, see `components.registry.versions`."""
    environment: dict[str, Any]
    """Everything else that decides the bits, see `core.determinism.environment`."""
    status: Status
    result: Result

    @classmethod
    def of(
        cls, task: Task, environment: Mapping[str, Any], status: Status, result: Result
    ) -> Record:
        """The record of a task with this result."""
        return cls(
            schema=SCHEMA,
            fingerprint=task.fingerprint,
            dataset=task.dataset,
            cell=task.cell.config,
            components=dict(task.cell.components),
            environment=dict(environment),
            status=status,
            result=result,
        )

    @classmethod
    def of_crash(cls, task: Task, environment: Mapping[str, Any], cause: str) -> Record:
        """The record of a task that ended in an error; `cause` is one line."""
        return cls.of(task, environment, "crashed", Result(metrics={}, curves={}, cause=cause))

    @property
    def checksum(self) -> str:
        """sha256 of the compact JSON."""
        return canonical_json.checksum(self.as_json())

    @property
    def is_final(self) -> bool:
        """Whether this is a result; a crashed cell is trained again."""
        return self.status in FINAL


class RunLog(Value):
    """What differs between two runs of one cell. Logs of other versions may lack keys or have more."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    started: float | None = None
    """Seconds since 1970."""
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    energy_joules: float | None = None
    """Of the whole device; null where it does not measure energy."""
    training_seconds: float | None = None
    images_per_second: float | None = None
    """During training."""
    resumed_at_step: int | None = None
    """Steps that earlier runs had done."""
    peak_memory_bytes: int | None = None
    """Of the GPU."""
    program: Program | None = None
    machine: Machine | None = None
    trace: dict[str, str] = Field(default_factory=dict)
    """Checksums of the first training steps, see `provenance.trace`."""
    weights: Loaded | None = None
    """What became of the tensors of the file with the backbone's initial weights, if it has one."""
    traceback: str | None = None
    """Of a crash."""


def store(root: Path) -> Store:
    """A project's store: in `$BENCHMARK_HOME`, or in `.benchmark` at the top.

    The store is outside DVC's outputs, which DVC removes before it runs a stage. Raises UserError for a
    store of an earlier version, whose records cannot be used.
    """
    found = Store(_home() or root / ".benchmark")
    if (schema := found.schema()) not in (None, SCHEMA):
        raise UserError(
            f"{found.folder} was made by version {schema} of the benchmark: move it away or delete it, "
            "and run the command again"
        )
    return found


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Suspends the search for reference cycles, which records do not have, here and from then on.

    Searching thousands of records takes as long as reading them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _home() -> Path | None:
    given = os.environ.get("BENCHMARK_HOME")
    try:
        return Path(given).expanduser() if given else None
    except RuntimeError as error:
        raise UserError(f"BENCHMARK_HOME is {given!r}: {error}") from None


class Store:
    """Records of cells in `folder`/cells and final states of training runs in `folder`/trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def schema(self) -> int | None:
        """The version that made the store, None for an empty store."""
        try:
            return int((self.folder / "schema").read_text(encoding="utf-8"))
        except FileNotFoundError:
            # Version 1 did not write this file.
            return 1 if any((self.folder / "cells").glob("*/record.json")) else None
        except (ValueError, IsADirectoryError) as error:
            raise UserError(f"{self.folder / 'schema'}: not a version ({error})") from None

    def _write_schema(self) -> None:
        if not (self.folder / "schema").is_file():
            canonical_json.write(self.folder / "schema", f"{SCHEMA}\n")

    def cell_dir(self, fingerprint: str) -> Path:
        """The cell's folder."""
        return self.folder / "cells" / fingerprint

    def checkpoint(self, fingerprint: str) -> Path:
        """The file with the state of an interrupted cell."""
        return self.cell_dir(fingerprint) / "checkpoint.safetensors"

    def finetuning(self, fingerprint: str) -> Path:
        """The folder with the states of a cell's fine-tuning while it is not finished."""
        return self.cell_dir(fingerprint) / "finetune"

    def trained(self, key: str) -> Path:
        """The file with the final state of a training run, which can be measured again."""
        return self.folder / "trained" / f"{key}.safetensors"

    def trace(self, key: str) -> Path:
        """The file with the checksums of the first steps of a training run."""
        return self.folder / "trained" / f"{key}.trace.json"

    def read(self, tasks: Iterable[Task]) -> dict[str, Record]:
        """The record of the last try of each task that has one, by fingerprint."""
        with without_collection():
            found = {task.fingerprint: self.last(task.fingerprint) for task in tasks}
        return {fingerprint: entry for fingerprint, entry in found.items() if entry}

    def record(self, fingerprint: str) -> Record | None:
        """The cell's record if it is final; a damaged one or that of a crash counts as missing."""
        found = self.last(fingerprint)
        return found if found is not None and found.is_final else None

    def last(self, fingerprint: str) -> Record | None:
        """The record of the last try, also of a crash; a damaged one counts as missing."""
        found = canonical_json.read_sealed(self.cell_dir(fingerprint) / "record.json")
        if found is None or found.get("schema") != SCHEMA:
            return None
        try:
            record = Record.model_validate(found)
        except ValidationError:
            return None
        return record if record.fingerprint == fingerprint else None

    def holds(self, fingerprint: str, text: str) -> bool:
        """Whether a record, as the text inside a published document, is the one of the last try."""
        stored = canonical_json.sealed_text(self.cell_dir(fingerprint) / "record.json")
        # There each line is indented by one more space.
        return stored is not None and stored.rstrip().replace("\n", "\n ") == text

    def run_log(self, fingerprint: str) -> RunLog:
        """The cell's run log, empty if there is none; a damaged one counts as missing."""
        found = canonical_json.read_sealed(self.cell_dir(fingerprint) / "run.json")
        try:
            return RunLog.model_validate(found or {})
        except ValidationError:
            return RunLog()

    def put(self, entry: Record, run_log: RunLog | None) -> None:
        """Stores a cell's record and run log; deletes the checkpoints of a finished one.

        A record that was made elsewhere has no run log.
        """
        folder = self.cell_dir(entry.fingerprint)
        self._write_schema()
        if run_log is not None:
            canonical_json.write_sealed(folder / "run.json", run_log.as_json())
        canonical_json.write_sealed(folder / "record.json", entry.as_json())
        if entry.is_final:
            self.checkpoint(entry.fingerprint).unlink(missing_ok=True)
            shutil.rmtree(self.finetuning(entry.fingerprint), ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, what: str) -> Iterator[None]:
        """Holds a lock of this store; another process that asks for it waits."""
        with locked(self.folder / f"{what}.lock"):
            yield
