"""Runs of a small project in forked processes that can be killed at any moment."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.helpers import tiny, warm

WRITING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "tempfile.mkstemp")
"""What Python announces (`sys.addaudithook`) before it changes something in a folder."""

REMOVING = ("os.remove", "os.rmdir")

CHECKPOINT_STEPS = 6


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


def work_watched(
    root: str, watched: bool, change: int | None, error: int | None, report: str
) -> int:
    """The exit code of `work` in a forked process, see `go`."""
    if watched:
        _watched(change, error, Path(report))
    work(Path(root))
    return 0


def go(
    root: Path, seconds: float | None = None, change: int | None = None, watched: bool = False,
    error: int | None = None,
) -> warm.Ended:  # fmt: skip
    """One run in `root`, killed after some seconds or before a change to a folder, or refused it."""
    asked = (str(root), watched or change is not None, change, error, str(changes(root)))
    target = "tests.helpers.forked:work_watched"
    return warm.call(target, asked, root, tiny.environment(), seconds)


def changes(root: Path) -> Path:
    """Where a watched run lists its changes to folders."""
    return root.with_name("changes")
