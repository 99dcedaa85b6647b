"""Times training runs beside other libraries' pipelines, and what surrounds them.

python -m tools.speed --part training --seconds 5
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.common import count
from benchmark.cli.parser import Parser, exit_code
from benchmark.core.errors import UserError, unknown
from benchmark.core.system import cores
from tools.speed.measure import PARTS, speed


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page of times and prints its path; returns the exit code."""
    parser = Parser(prog="python -m tools.speed", description=__doc__)
    parser.add_argument("--part", action="append", help="training, jobs or harness (repeatable)")
    parser.add_argument("--case", action="append", help="only this training (repeatable)")
    parser.add_argument("--threads", default="auto", help="cores of one training, e.g. 1,2")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each turn")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: results/speed")
    parser.add_argument(
        "--lenient", action="store_true", help="leave out libraries that are not installed"
    )
    arguments = parser.parse_args(argv)
    return exit_code("speed", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    # A termination ends the timed processes too, which are in groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = arguments.part or PARTS
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    threads = [count(text, "--threads") for text in arguments.threads.split(",")]
    if arguments.rounds < 1 or not 0 < arguments.seconds < 3600:
        raise UserError("--rounds starts at 1, --seconds is more than 0 and less than 3600")
    page = speed(
        Path.cwd(), arguments.device, parts, arguments.case or (),
        [number or cores() for number in threads], arguments.rounds, arguments.seconds,
        arguments.out, arguments.lenient,
    )  # fmt: skip
    print(page)


if __name__ == "__main__":
    sys.exit(main())
