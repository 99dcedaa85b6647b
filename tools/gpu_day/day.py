"""The parts of the day, in order, each within its time."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmark.config import params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError, check_known
from benchmark.core.system import cores
from benchmark.data.manifest import MANIFEST
from benchmark.planning import plan
from benchmark.planning.images import data_folder
from benchmark.results.records import Store
from tools.gpu_day import commands, page
from tools.gpu_day.commands import CODE, PATIENCE, Ended
from tools.speed.cases import CASES, MINI_RESNET, Case
from tools.speed.measure import facts

PARTS = ("tests", "speed", "cells")

TESTS_SECONDS = 240.0
"""Most that the CUDA tests may take."""

TESTS_SHARE, SPEED_SHARE = 1 / 3, 5 / 12
"""Most of the whole time that these parts may take; what they leave is for the cells."""

CASE_SHARE, WAY_SHARE = 1 / 4, 3 / 20
"""Most of the time for speed that one case beside other libraries, and one way of sharing, may take."""

WAYS: tuple[tuple[str, int, bool], ...] = (
    ("processes", 1, False),
    ("processes", 4, False),
    ("processes", 4, True),
    ("batched", 4, False),
    ("processes", 8, True),
    ("streams", 4, False),
    ("processes", 8, False),
    ("processes", 16, True),
)
"""Ways of sharing the device, see `at_once`, cells at once, and whether through MPS; the most promising
first, as the time may end."""

TINY_WAYS = (("processes", 1, False), ("processes", 2, False), ("batched", 2, False))

SOME = 4
"""Cells at once on a GPU where nothing was measured."""

LATE = "not done"

LEAST = 5.0
"""Seconds under which nothing is started any more."""


@dataclass
class Day:
    """What is asked for, and the document that is written after every step."""

    out: Path
    root: Path
    minutes: float
    track: str
    experiment: str
    skip: Sequence[str] = ()
    at_once: int | None = None
    device: str = "auto"
    tiny: bool = False
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out = self.out.resolve()
        self.end = time.monotonic() + 60 * self.minutes
        self.environment = {"BENCHMARK_HOME": str(self.out)}

    def run(self) -> list[str]:
        """All parts; returns the names of those that failed. Raises UserError for wrong arguments."""
        check_known("part", self.skip, PARTS)
        given = params.read(params.track_file(self.root, self.track))
        check_known("experiment", [self.experiment], given.experiments)
        self.machine = facts(self.device)
        self.found = {
            "schema": 1,
            "machine": self.machine,
            "minutes": self.minutes,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "track": self.track,
            "experiment": self.experiment,
            "parts": {},
        }
        self._write()
        failed = []
        for name in PARTS:
            begun = time.monotonic()
            entry: dict[str, Any] = {"state": "running"}
            self.found["parts"][name] = entry
            if name in self.skip:
                entry |= {"state": "skipped", "why": "by --skip"}
                continue
            self._write()
            try:
                state, why = getattr(self, f"_{name}")(entry)
            except UserError as error:
                state, why = "failed", str(error)
            entry |= {"state": state, "why": why, "seconds": round(time.monotonic() - begun, 1)}
            self._write()
            if state == "failed":
                failed.append(name)
        return failed

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`."""
        return "cpu" if self.machine["device"] == "cpu" else "cuda"

    def _write(self) -> None:
        canonical_json.write(self.out / "figures" / "day.json", canonical_json.pretty(self.found))
        canonical_json.write(self.out / "README.md", page.markdown(self.found))

    def _command(self, name: str, limit: float, *arguments: str, **more: Any) -> Ended:
        environment = self.environment | more.pop("environment", {})
        log = self.out / "logs" / f"{name}.log"
        return commands.run(arguments, log, min(limit, self.left()), environment, **more)

    def _tests(self, entry: dict[str, Any]) -> tuple[str, str]:
        if find_spec("pytest") is None:
            return "skipped", "pytest is not installed"
        limit = min(TESTS_SECONDS, 60 * self.minutes * TESTS_SHARE)
        together = self.kind == "cuda" and find_spec("xdist") is not None
        options = ["-n", "4", "--dist", "load"] if together else ["-p", "no:xdist"]
        log = self.out / "logs" / "tests.log"
        log.unlink(missing_ok=True)
        ended = self._command(
            "tests", limit, "-m", "pytest", "-o", "addopts=", "-v", "--import-mode", "importlib",
            "-p", "no:cacheprovider", *options, "tests/test_cuda.py", folder=CODE, patience=5.0,
        )  # fmt: skip
        results = outcomes(log.read_text(encoding="utf-8", errors="replace"))
        entry["count"] = dict(Counter(results.values()))
        entry["failed"] = sorted(name for name, state in results.items() if state != "passed")
        if ended.late:
            state = "failed" if entry["failed"] else "stopped"
            return state, f"not done after {limit:.0f} s"
        if not results and ended.code in (0, 5):
            return "skipped", "tests/test_cuda.py needs a CUDA GPU"
        return ("done", "") if ended.code == 0 else ("failed", ended.said)

    def _speed(self, entry: dict[str, Any]) -> tuple[str, str]:
        whole = 60 * self.minutes * SPEED_SHARE
        end = time.monotonic() + whole
        cases = (MINI_RESNET,) if self.tiny else CASES[self.kind]
        entry["cases"], entry["at_once"] = {}, []
        turn = ("1", "0.2") if self.tiny else ("2", "3")
        for case in cases:
            limit = min(end - time.monotonic(), whole * CASE_SHARE)
            ended = self._command(
                f"speed-{case.name}", limit, "-m", "tools.speed", "--part", "training",
                "--case", case.name, "--rounds", turn[0], "--seconds", turn[1],
                "--device", self.device, "--out", str(self.out / "figures" / "speed"), "--lenient",
                patience=5.0,
            )  # fmt: skip
            entry["cases"][case.name] = _said(ended)
            self._write()
        ways = TINY_WAYS if self.tiny else WAYS
        for way, count, through_mps in ways:
            for case in cases:
                row = {"case": case.name, "way": way, "count": count, "mps": through_mps}
                entry["at_once"].append(row | self._way(case, way, count, through_mps, end))
                self._write()
        said = [*entry["cases"].values(), *(row["why"] for row in entry["at_once"] if "why" in row)]
        late = [why for why in said if why.startswith(LATE)]
        wrong = [why for why in said if why != "done" and why not in late]
        if wrong:
            return "failed", wrong[0]
        return ("stopped", "some figures are missing") if late else ("done", "")

    def _way(
        self, case: Case, way: str, count: int, through_mps: bool, end: float
    ) -> dict[str, Any]:
        """The images and cells of one way, or why there are none."""
        whole = 60 * self.minutes * SPEED_SHARE
        limit = min(whole * WAY_SHARE, end - time.monotonic(), self.left())
        if limit < LEAST:
            return {"why": f"{LATE} at all"}
        name = f"at-once-{case.name}-{way}-{count}" + ("-mps" if through_mps else "")
        try:
            with commands.mps(through_mps, self.out / "logs" / "mps") as environment:
                ended = self._command(
                    name, limit, "-m", "tools.gpu_day.at_once", "--case", case.name, "--way", way,
                    "--count", str(count), "--seconds", "0.2" if self.tiny else "4",
                    "--device", self.device, environment=environment, patience=5.0,
                )  # fmt: skip
            rate = float(json.loads(ended.said)["images_per_second"])
        except UserError as error:
            return {"why": str(error)}
        except (ValueError, KeyError, TypeError):
            return {"why": _said(ended)}
        found = params.read(params.track_file(self.root, case.track))
        images = plan.images_seen(found.methods["simclr"], case.backbone)  # type: ignore[arg-type]  # a trained method
        return {
            "images_per_second": round(rate, 1),
            "cells_per_hour": round(3600 * rate / images, 3),
        }

    def _cells(self, entry: dict[str, Any]) -> tuple[str, str]:
        count, through_mps = self._best()
        entry |= {"at_once": count, "mps": through_mps}
        before = self._records()
        try:
            with contextlib.ExitStack() as stack:
                environment = stack.enter_context(
                    commands.mps(through_mps, self.out / "logs" / "mps")
                )
                return self._train(count, environment)
        finally:
            entry["records"] = dict(self._records() - before)
            entry["unfinished"] = len(list(self.out.glob("cells/*/checkpoint.safetensors")))

    def _train(self, count: int, environment: dict[str, str]) -> tuple[str, str]:
        given = params.read(params.track_file(self.root, self.track))
        what = ["--track", self.track, "--experiment", self.experiment]
        at_once = "--jobs" if self.kind == "cpu" else "--per-gpu"
        machine = [at_once, str(count), "--device", self.device]
        verbs = [["train", *what, *machine]]
        if given.experiments[self.experiment].learning_rates == "tuned":
            verbs.insert(0, ["sweep", *what, *machine])
        if not (data_folder(self.root, self.track) / MANIFEST).is_file():
            verbs.insert(0, ["data", self.track])
        for verb in verbs:
            if (limit := self.left() - PATIENCE) < LEAST:
                return "stopped", f"no time left for `benchmark {verb[0]}`"
            ended = self._command("cells", limit, "-m", "benchmark", *verb, environment=environment)
            if ended.late:
                return "stopped", f"in `benchmark {verb[0]}`, at the end of the time"
            if ended.code:
                return "failed", f"benchmark {verb[0]}: {ended.said}"
        return "done", ""

    def _best(self) -> tuple[int, bool]:
        """How many cells at once, and whether through MPS: the processes that were the fastest."""
        if self.at_once is not None:
            return self.at_once, False
        rows = self.found["parts"]["speed"].get("at_once", ())
        timed = [row for row in rows if row["way"] == "processes" and "cells_per_hour" in row]
        first = [row for row in timed if row["case"] == timed[0]["case"]]
        best = max(first, key=lambda row: row["cells_per_hour"], default=None)
        if best is not None:
            return best["count"], best["mps"]
        return (cores() if self.kind == "cpu" else SOME), False

    def _records(self) -> Counter[str]:
        """The states of the records in the folder."""
        store = Store(self.out)
        found = (store.last(file.parent.name) for file in self.out.glob("cells/*/record.json"))
        return Counter(record.status for record in found if record is not None)


def outcomes(log: str) -> dict[str, str]:
    """The outcome of each test by its name in what `pytest -v` printed, with pytest-xdist or without.

    Line by line, so that the tests of a run that was stopped are found too.
    """
    state = r"(?P<state>PASSED|FAILED|ERROR)"
    alone = rf"^(?P<name>\S+::\S+) {state} +\[ *\d+%\]$"
    worker = rf"^\[gw\d+\] \[ *\d+%\] {state} (?P<name>\S+::\S+) *$"
    return {
        found["name"]: found["state"].lower()
        for pattern in (alone, worker)
        for found in re.finditer(pattern, log, re.M)
    }


def _said(ended: Ended) -> str:
    if ended.late:
        return f"{LATE} after {ended.seconds:.0f} s"
    return "done" if ended.code == 0 else ended.said or f"exit code {ended.code}"
