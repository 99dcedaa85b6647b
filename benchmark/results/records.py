"""Records and run logs: what a cell leaves behind, and the store that keeps them.

A record is deterministic: configuration, versions, metrics and curves over steps, and nothing that
differs between two runs of the same cell. What does (times, host, throughput) is the run log's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning.cell import FINAL, Cell

SCHEMA = 2

KEYS = (
    "schema", "fingerprint", "dataset", "cell", "components", "environment", "status", "result",
)  # fmt: skip
"""What a record has, see `record`."""


def record(
    cell: Cell,
    fingerprint: str,
    dataset: str,
    environment: Mapping[str, Any],
    status: str,
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """A cell's record.

    `schema`: version of this layout. `cell`: configuration without names. `components`: versions.
    `dataset`: the checksum of the images. `fingerprint`: sha256 of these three. `environment`: what
    else decides the bits. `status`: done, diverged, out-of-memory or crashed. `result`: `metrics`
    (accuracies in 0..1, null where not finite), `correct` (which test images the nearest neighbours get
    right, as hexadecimal bits), `diagnostics` (see docs/diagnostics.md; those of a
    cell that was judged on the test split), `curves` (by step, thinned), `steps`,
    `parameters`, `first_non_finite_step`, `cause`.
    """
    return {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "dataset": dataset,
        "cell": dict(cell.config),
        "components": dict(cell.components),
        "environment": dict(environment),
        "status": status,
        "result": dict(result),
    }


def store(root: Path) -> Store:
    """A project's store: in `$BENCHMARK_HOME`, or in `.benchmark` at the top.

    Outside DVC's outputs, which DVC removes before it runs a stage. Raises UserError for a store of an
    earlier version: its records could not be used, and their bulk would stay.
    """
    found = Store(Path(os.environ.get("BENCHMARK_HOME") or root / ".benchmark"))
    if (schema := found.schema()) not in (None, SCHEMA):
        raise UserError(
            f"{found.folder} was made by version {schema} of the benchmark: move it away or delete it, "
            "and run the command again"
        )
    return found


class Store:
    """Finished cells by fingerprint, in `folder`/cells, and finished trainings, in `folder`/trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def schema(self) -> int | None:
        """The version that made the store, None where it holds nothing yet."""
        try:
            return int((self.folder / "schema").read_text(encoding="utf-8"))
        except FileNotFoundError:
            # Version 1 did not write it down.
            return 1 if any((self.folder / "cells").glob("*/record.json")) else None
        except ValueError as error:
            raise UserError(f"{self.folder / 'schema'}: not a version ({error})") from None

    def _write_schema(self) -> None:
        if not (self.folder / "schema").is_file():
            canonical_json.write(self.folder / "schema", f"{SCHEMA}\n")

    def of(self, fingerprint: str) -> Path:
        """The cell's folder."""
        return self.folder / "cells" / fingerprint

    def checkpoint(self, fingerprint: str) -> Path:
        """Where an interrupted cell's state is."""
        return self.of(fingerprint) / "checkpoint.safetensors"

    def trained(self, key: str) -> Path:
        """Where the final state of a training is kept, so that it can be measured again."""
        return self.folder / "trained" / f"{key}.safetensors"

    def trace(self, key: str) -> Path:
        """Where the checksums of a training's first moments are."""
        return self.folder / "trained" / f"{key}.trace.json"

    def record(self, fingerprint: str) -> dict[str, Any] | None:
        """The cell's record if it is finished; a damaged or unfinished one counts as missing."""
        found = self._whole(fingerprint)
        return found if found is not None and found["status"] in FINAL else None

    def _whole(self, fingerprint: str) -> dict[str, Any] | None:
        found = canonical_json.read_sealed(self.of(fingerprint) / "record.json")
        if found is None or set(found) != set(KEYS) or found["schema"] != SCHEMA:
            return None
        return found if found["fingerprint"] == fingerprint else None

    def crash(self, fingerprint: str) -> dict[str, Any] | None:
        """The record of a crash, if the last try ended in one."""
        found = self._whole(fingerprint)
        return found if found is not None and found["status"] == "crashed" else None

    def run_log(self, fingerprint: str) -> dict[str, Any]:
        """The cell's run log, empty if there is none."""
        return canonical_json.read_sealed(self.of(fingerprint) / "run.json") or {}

    def put(self, entry: Mapping[str, Any], run_log: Mapping[str, Any]) -> None:
        """Stores a cell's record and run log; its checkpoint is no longer needed."""
        folder = self.of(entry["fingerprint"])
        self._write_schema()
        canonical_json.write_sealed(folder / "run.json", run_log)
        canonical_json.write_sealed(folder / "record.json", entry)
        if entry["status"] in FINAL:
            self.checkpoint(entry["fingerprint"]).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Holds a lock among the processes that use this store; another one waits for it."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{what}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def adopt(self, entry: Mapping[str, Any]) -> None:
        """Stores a record that was made elsewhere, so without a run log."""
        self._write_schema()
        canonical_json.write_sealed(self.of(entry["fingerprint"]) / "record.json", entry)
