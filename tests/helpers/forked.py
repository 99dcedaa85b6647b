"""Runs of a small project in processes that can be killed at any moment.

Importing torch and others takes seconds, so one process imports them and forks a child for every run. It
is a process of its own since a child of pytest's would inherit pytest's threads.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers import tiny

WRITING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "tempfile.mkstemp")
"""What Python announces (`sys.addaudithook`) before it changes something in a folder."""

REMOVING = ("os.remove", "os.rmdir")

CHECKPOINT_STEPS = 6

IMPORTED = ("timm", "matplotlib.backends.backend_svg", "benchmark.cli.leaderboard",
            "benchmark.execution.cell", "benchmark.report.leaderboard.write")  # fmt: skip
"""What a run imports and what takes seconds, so that no run is killed while it only imports."""


def tree() -> dict[str, Any]:
    """Two training runs, one of which diverges, a control, and a table."""
    found = tiny.raw()
    found["experiments"] = {"leaderboard": found["experiments"]["leaderboard"]}
    found["experiments"]["leaderboard"]["schemes"] = ["bn"]
    return found


def work(root: Path) -> None:
    """What `dvc repro` does in the project: images, training runs, records, tables.

    The training runs are those of `benchmark.worker`, one after the other and with more checkpoints.
    """
    from benchmark.cli import parser
    from benchmark.core import determinism
    from benchmark.execution.cell import run
    from benchmark.planning.cell import tasks
    from benchmark.planning.plan import cells
    from benchmark.results import origins, published

    os.chdir(root)
    if parser.main(["data"]):
        raise SystemExit(3)
    planned = tasks(cells(tiny.params(tree()), "leaderboard", None), tiny.dataset(root))
    store = tiny.store(root)
    for task in planned:
        if store.record(task.fingerprint) is None:
            run(
                task, root / "data" / "mini", store, determinism.start("cpu"), lambda *_: True,
                CHECKPOINT_STEPS,
            )  # fmt: skip
    for method in dict.fromkeys(task.cell.method for task in planned):
        target = published.folder(root, "mini", "leaderboard", method)
        of_method = [task for task in planned if task.cell.method == method]
        records = store.read(of_method)
        published.publish(of_method, records, store, target)
        origins.publish(root, of_method, records, store)
    if parser.main(["leaderboard"]):
        raise SystemExit(3)


def fresh(root: Path) -> Path:
    """A project whose images are not built."""
    root.mkdir(parents=True)
    tiny.draw_images(root / "images")
    tiny.write_params(root, tree())
    return root


def left(root: Path) -> dict[str, bytes]:
    """The files that a run leaves and that do not depend on time: not run logs, provenance, checkpoints.

    Names that begin with a dot are of what was under way, and nobody reads them.
    """
    found = {}
    for folder in ("data", "results", ".benchmark"):
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root)
            hidden = any(part.startswith(".") for part in name.parts[1:])
            timed = path.stem in ("run", "checkpoint") or path.suffix == ".lock"
            timed = timed or "provenance" in name.parts
            if path.is_file() and not hidden and not timed:
                found[str(name)] = path.read_bytes()
    return found


def said(root: Path) -> str:
    return root.with_name("said").read_text(encoding="utf-8")


def _watched(last: int | None, error: int | None, report: Path) -> None:
    """Counts the changes to folders; the process is killed before the one numbered `last`.

    Or, with an `error` of the system, that one and all later ones are refused, but for removals.
    """
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if event in WRITING or opened:
            if count == last and error is None:
                os.killpg(0, signal.SIGKILL)
            if error is not None and last is not None and count >= last and event not in REMOVING:
                raise OSError(error, os.strerror(error))
            count += 1
            if last is None:
                os.write(log, f"{event} {arguments[0]}\n".encode())

    log = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.addaudithook(hook)


def serve() -> None:
    """Forks a child for every line of stdin and says how each ended."""
    from benchmark.core import determinism

    determinism.start("cpu")
    for module in IMPORTED:
        importlib.import_module(module)

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            out = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = 1
            with contextlib.suppress(BaseException):
                if asked["watched"]:
                    _watched(asked["change"], asked["error"], Path(asked["said"] + ".changes"))
                try:
                    work(Path(asked["root"]))
                    code = 0
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    raise
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(child, child)
        begun = time.monotonic()
        if asked["seconds"] is not None:
            # Not a wait for something: the moment is what is tried.
            while time.monotonic() - begun < asked["seconds"]:
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    break
                time.sleep(0.002)
            else:
                os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps([code, time.monotonic() - begun]), flush=True)


class Runs:
    """Asks the forking process for runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def go(
        self, root: Path, seconds: float | None = None, change: int | None = None,
        watched: bool = False, error: int | None = None,
    ) -> tuple[int, float]:  # fmt: skip
        """One run in `root`, killed after some seconds or before a change to a folder, or refused it.

        Returns its exit code, -9 where it was killed, and how long it took.
        """
        asked = {
            "root": str(root), "seconds": seconds, "change": change, "error": error,
            "watched": watched or change is not None, "said": str(root.with_name("said")),
        }  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code, took = json.loads(self.process.stdout.readline())
        return code, took


@contextlib.contextmanager
def runs() -> Iterator[Runs]:
    """The forking process, torch loaded."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.helpers import forked; forked.serve()"],
        cwd=tiny.PROJECT, env=tiny.environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield Runs(process)
    finally:
        process.kill()
        process.communicate()
