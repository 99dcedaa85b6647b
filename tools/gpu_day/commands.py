"""Runs commands with a limit of time; all that they print goes to a file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.core.errors import UserError

CODE = Path(__file__).resolve().parents[2]
"""The checkout of this program."""

PATIENCE = 40.0
"""Seconds that a command gets to save its state and end: 30 for the workers of `benchmark train`."""

MPS = "nvidia-cuda-mps-control"
"""The daemon through which processes use one GPU at the same time instead of in turn."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    late: bool
    """Whether it was stopped at its limit."""
    seconds: float
    said: str
    """The last line that it printed."""


def run(
    arguments: Sequence[str],
    log: Path,
    limit: float,
    environment: Mapping[str, str],
    folder: Path | None = None,
    patience: float = PATIENCE,
) -> Ended:
    """Runs `python` with these arguments in `folder` (default: the current one) and waits.

    After `limit` seconds it is asked to end, and `patience` seconds later its whole process group is
    killed; so it is if this process is interrupted. `log` gets all output, after what is there.
    """
    begun, late = time.monotonic(), False
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"$ python {' '.join(arguments)}\n".encode())
        file.flush()
        start = file.tell()
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
            env={**os.environ, "PYTHONPATH": _path(), **environment},
        )  # fmt: skip
        try:
            process.wait(max(0.0, limit))
        except subprocess.TimeoutExpired:
            late = True
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    with log.open("rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return Ended(process.returncode, late, time.monotonic() - begun, lines[-1] if lines else "")


def _path() -> str:
    given = os.environ.get("PYTHONPATH")
    return f"{CODE}{os.pathsep}{given}" if given else str(CODE)


@contextlib.contextmanager
def mps(wanted: bool, logs: Path) -> Iterator[dict[str, str]]:
    """The environment in which processes use one GPU at the same time; empty if that is not wanted.

    Raises UserError if the daemon is missing or does not start.
    """
    if not wanted:
        yield {}
        return
    if shutil.which(MPS) is None:
        raise UserError(f"{MPS} is not installed")
    with tempfile.TemporaryDirectory(prefix="mps-") as pipes:
        logs.mkdir(parents=True, exist_ok=True)
        environment = {"CUDA_MPS_PIPE_DIRECTORY": pipes, "CUDA_MPS_LOG_DIRECTORY": str(logs)}
        whole = {**os.environ, **environment}
        try:
            started = subprocess.run(
                [MPS, "-d"], env=whole, timeout=20, capture_output=True, text=True, check=False
            )
            if started.returncode:
                raise UserError(f"{MPS} -d: {started.stderr.strip() or started.returncode}")
            yield environment
        except subprocess.TimeoutExpired:
            raise UserError(f"{MPS} -d did not end in 20 s") from None
        finally:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(
                    [MPS], input="quit\n", env=whole, timeout=20, capture_output=True, text=True,
                    check=False,
                )  # fmt: skip
