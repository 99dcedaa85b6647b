"""A process with torch loaded that forks a child for each call: importing torch takes seconds.

It is a process of its own since a child of pytest's would inherit pytest's threads. All its children
share the fork server that their workers come from. Each process of pytest has one such process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]

IMPORTED = ("timm", "scipy.stats", "matplotlib.backends.backend_svg", "benchmark.cli.leaderboard",
            "benchmark.execution.cell", "benchmark.report.leaderboard.write")  # fmt: skip
"""What commands import and what takes seconds, so that no run is killed while it only imports."""


@dataclass(frozen=True)
class Ended:
    """How a call ended: its exit code, -9 if it was killed, its seconds and what it printed."""

    returncode: int
    seconds: float
    stdout: str
    stderr: str


def call(
    target: str,
    arguments: Sequence[Any],
    folder: Path,
    environment: Mapping[str, str],
    seconds: float | None = None,
) -> Ended:
    """Calls `module:function` in a forked child, which is killed after some seconds.

    The child exits with the function's return value; other values than None and integers count as 0.
    """
    with tempfile.TemporaryDirectory() as printed:
        asked = {
            "target": target, "arguments": list(arguments), "folder": str(folder),
            "environment": dict(environment), "seconds": seconds, "printed": printed,
        }  # fmt: skip
        with _lock:
            process = _server()
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            code, took = json.loads(process.stdout.readline())
        out, err = (Path(printed, name).read_text("utf-8", "replace") for name in ("out", "err"))
    return Ended(code, took, out, err)


def run_pytest(arguments: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Runs tests of the project in a forked child, e.g. with a plug-in in the environment."""
    # Plug-ins of pytest that torch and others have imported already have no assertions for us to see.
    quiet = "ignore::pytest.PytestAssertRewriteWarning"
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-W", quiet, *arguments]
    return call("pytest:main", [options], PROJECT, environment, 300)


_lock = threading.Lock()


@functools.cache
def _server() -> subprocess.Popen[str]:
    from benchmark.core import determinism

    settings = determinism.settings() | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.helpers import warm; warm.serve()"],
        cwd=PROJECT, env=dict(os.environ) | settings, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def end() -> None:
        process.kill()
        process.communicate()

    atexit.register(end)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def serve() -> None:
    """Forks a child for every line of stdin and prints how each ended."""
    from multiprocessing import forkserver, resource_tracker

    from benchmark.core import determinism
    from benchmark.execution import processes

    determinism.start("cpu")
    # As `processes` starts it: the workers inherit that Ctrl-C is ignored.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.set_forkserver_preload(processes.LOADED)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    # The children cannot wait for it, which is how the original looks whether it runs.
    server: Any = forkserver
    server.ensure_running = server._forkserver.ensure_running = resource_tracker.ensure_running
    for module in IMPORTED:
        importlib.import_module(module)

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(asked)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        begun = time.monotonic()
        if asked["seconds"] is not None:
            # Not a wait for something: the moment may be what is tried.
            while time.monotonic() - begun < asked["seconds"]:
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.002)
            else:
                os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps([code, time.monotonic() - begun]), flush=True)


def _child(asked: Mapping[str, Any]) -> None:
    """Makes the call and exits."""
    code: object = 1
    with contextlib.suppress(BaseException):
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(Path(asked["printed"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, number)
            os.close(file)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        module, name = asked["target"].split(":")
        try:
            code = getattr(importlib.import_module(module), name)(*asked["arguments"])
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)
