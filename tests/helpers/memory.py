"""How much memory a computation takes, torch's own included."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.helpers.tiny import PROJECT

FRAME = """
import resource
import torch
torch.set_num_threads(1)
{program}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
warm()
before = peak()
whole()
print((peak() - before) / 1024)
"""


def growth(program: str) -> float:
    """By how many MiB the peak of a new process grows in `whole()`, after `warm()`.

    `program` defines both, and its data before. What they return is not kept.
    """
    text = FRAME.format(program=textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
