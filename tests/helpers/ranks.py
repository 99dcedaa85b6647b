"""Processes that share a step, for tests: torch.distributed with gloo, on the CPU."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmark.core import ranks


def run(
    size: int, folder: Path, target: Callable[..., Any], *arguments: Any, timeout: float = 900
) -> list[Any]:
    """What `target(*arguments)` returns in each of `size` processes; raises the first one's error."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["timm", "tests.helpers.small"])
    meeting = folder / f"meeting-{size}-{id(arguments)}"
    meeting.unlink(missing_ok=True)
    ends, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        given = (theirs, rank, size, f"file://{meeting}", target, arguments)
        process = context.Process(target=_member, args=given, daemon=True)
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    try:
        found = []
        for rank, end in enumerate(ends):
            if not end.poll(timeout):
                raise TimeoutError(f"rank {rank} of {size} has not answered")
            found.append(pickle.loads(end.recv_bytes()))
    finally:
        for process in processes:
            process.kill()
            process.join()
    errors = [one for one in found if isinstance(one, _Failed)]
    if errors:
        raise RuntimeError(errors[0].text)
    return found


class _Failed:
    def __init__(self, text: str) -> None:
        self.text = text


def _member(
    pipe: Connection,
    rank: int,
    size: int,
    meeting: str,
    target: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    try:
        if size > 1:
            ranks.join(rank, size, meeting, torch.device("cpu"))
        answer = target(*arguments)
    except BaseException:
        answer = _Failed(traceback.format_exc())
    # Plain pickling copies tensors; a pipe would share memory that ends with this process.
    pipe.send_bytes(pickle.dumps(answer))
    if isinstance(answer, _Failed):
        return
    if size > 1:
        ranks.leave()
