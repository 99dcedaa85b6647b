"""Uses a few minutes of a GPU: its tests, its speed, and as many cells as fit.

python -m tools.gpu_day --out FOLDER --minutes 12
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.common import count
from benchmark.cli.parser import Parser, exit_code
from benchmark.core.errors import CheckFailed, UserError
from tools.gpu_day.day import Day


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the parts and returns the exit code: 1 if a part failed, after all of them."""
    parser = Parser(prog="python -m tools.gpu_day", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for all results")
    parser.add_argument("--minutes", type=float, default=12.0, metavar="M")
    parser.add_argument("--skip", default="", metavar="PARTS", help="of tests,speed,cells")
    parser.add_argument("--track", metavar="T", help="default: cifar10")
    parser.add_argument("--experiment", default="leaderboard", metavar="E")
    parser.add_argument(
        "--at-once", default="auto", metavar="K",
        help="cells trained at once (default: what was fastest in the part `speed`)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="small sizes and the track mini, to try it"
    )
    arguments = parser.parse_args(argv)
    return exit_code("gpu_day", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.minutes <= 24 * 60:
        raise UserError(f"--minutes is {arguments.minutes:g}, expected more than 0 and up to 1440")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    day = Day(
        out=arguments.out,
        root=Path.cwd(),
        minutes=arguments.minutes,
        track=arguments.track or ("mini" if arguments.tiny else "cifar10"),
        experiment=arguments.experiment,
        skip=[name for name in arguments.skip.split(",") if name],
        at_once=count(arguments.at_once, "--at-once"),
        device=arguments.device,
        tiny=arguments.tiny,
    )
    failed = day.run()
    print(day.out / "README.md")
    if failed:
        raise CheckFailed(f"failed: {', '.join(failed)}; see {day.out / 'logs'}")


if __name__ == "__main__":
    sys.exit(main())
