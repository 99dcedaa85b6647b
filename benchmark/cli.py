"""The command line: `benchmark VERB …`.

Exit codes: 0 done, 1 a check did not hold, 2 the user's input is wrong or the machine refuses (a full
disk, a folder that may not be written), 130 interrupted with everything saved. Verbs import what they
need when they run, so that `--help` and errors are quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmark import commands, plugins, registry
from benchmark.errors import REFUSALS, CheckFailed, UserError, refused


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        with plugins.added(arguments.plugins + arguments.more_plugins):
            registry.check_plugins()
            arguments.run(arguments)
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    except CheckFailed as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmark: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (a pager, head) went away: not an error.
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        print(f"benchmark: {UserError(refused(error))}", file=sys.stderr)
        return 2
    return 0


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2, without the usage that `--help` shows."""
        self.exit(2, f"benchmark: {message} (see `{self.prog} --help`)\n")


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = Parser(
        prog="benchmark",
        description="Normalization schemes in self-supervised learning, compared reproducibly.",
    )
    _plugin(top, "plugins")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    plan = _verb(verbs, "plan", commands.plan, "list the cells, their state and expected cost")
    _track(plan)
    plan.add_argument("--experiment", default="leaderboard", metavar="E")
    plan.add_argument("--method", metavar="M", help="only the cells of this method")
    plan.add_argument("--json", action="store_true", help="for programs")

    data = _verb(verbs, "data", commands.data, "fetch, verify and build a track's images")
    data.add_argument("track", nargs="?", default="mini")

    train = _verb(verbs, "train", commands.train, "train what is missing and publish the records")
    _track(train)
    train.add_argument("--experiment", default="leaderboard", metavar="E")
    train.add_argument("--method", metavar="M", help="only the cells of this method")
    train.add_argument("--cell", action="append", metavar="C", help="only this cell (repeatable)")
    _machine(train)

    sweep = _verb(verbs, "sweep", commands.sweep, "tune the learning rates on the validation split")
    _track(sweep)
    sweep.add_argument("--experiment", default="leaderboard", metavar="E")
    _machine(sweep)

    board = _verb(verbs, "leaderboard", commands.leaderboard, "rebuild the tables from records")
    _track(board)
    board.add_argument("--experiment", default="leaderboard", metavar="E")

    claims = _verb(verbs, "claims", commands.claims, "judge the claims by the records")
    _track(claims)

    advise = _verb(
        verbs, "advise", commands.advise, "which schemes the records advise, and how sure they are"
    )
    _track(advise)
    advise.add_argument("--method", required=True, metavar="M", help="a method, or a recipe")
    advise.add_argument("--backbone", required=True, metavar="F", help="e.g. resnet or vit")
    advise.add_argument("--batch", type=int, metavar="N", help="default: the recipe's")

    sync = _verb(verbs, "sync", commands.sync, "bring MLflow up to date with the records")
    _track(sync)
    sync.add_argument("--uri", help="tracking server (default: MLFLOW_TRACKING_URI, else SQLite)")
    sync.add_argument(
        "--stamp",
        type=Path,
        metavar="FILE",
        help="write down the leaderboard's synced records (for DVC)",
    )
    sync.add_argument("--watch", action="store_true", help="go on until Ctrl-C")

    verify = _verb(
        verbs, "verify", commands.verify, "train cells again from nothing and compare the records"
    )
    _track(verify)
    verify.add_argument("cells", nargs="*", metavar="CELL", help="e.g. simclr-resnet-bn-s0")
    verify.add_argument("--experiment", default="leaderboard", metavar="E")
    verify.add_argument("--sample", type=int, metavar="N", help="N cells chosen by --draw")
    verify.add_argument("--draw", default="0", help="another text, another sample")
    verify.add_argument(
        "--exact", action="store_true", help="refuse what is only within the tolerance"
    )
    _machine(verify)

    origin = _verb(
        verbs,
        "provenance",
        commands.provenance,
        "what made a published record: commit, image, machine",
    )
    _track(origin)
    origin.add_argument("cells", nargs="+", metavar="CELL", help="e.g. simclr-resnet-bn-s0")
    origin.add_argument("--experiment", default="leaderboard", metavar="E")

    speed = _verb(
        verbs, "speed", commands.speed, "time trainings beside other libraries' pipelines"
    )
    speed.add_argument("--part", action="append", help="training, jobs or harness (repeatable)")
    speed.add_argument("--case", action="append", help="only this training (repeatable)")
    speed.add_argument("--threads", default="auto", help="cores of one training, e.g. 1,2")
    speed.add_argument("--rounds", type=int, default=7, metavar="N")
    speed.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each turn")
    speed.add_argument("--device", default="auto", help="auto, cpu or cuda")

    _verb(
        verbs, "components", commands.components, "write components.json, the versions DVC watches"
    )
    _verb(verbs, "doctor", commands.doctor, "what this machine is and what is missing on it")
    return top


def _verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], help_text: str
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=help_text, description=help_text[:1].upper() + help_text[1:] + "."
    )
    verb.set_defaults(run=run, root=Path.cwd())
    _plugin(verb, "more_plugins")
    return verb


def _plugin(grammar: argparse.ArgumentParser, target: str) -> None:
    """Before the verb and after it, with a target each: a verb's would replace the other's."""
    grammar.add_argument(
        "--plugin", action="append", dest=target, default=[], metavar="FILE",
        help="a norm, method or data source in a file of yours (repeatable; also BENCHMARK_PLUGINS)",
    )  # fmt: skip


def _track(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--track", default="mini", metavar="T", help="default: mini")


def _machine(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--jobs", default="auto", metavar="N", help="cells at once (default: one for each CPU core)"
    )
    verb.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")


if __name__ == "__main__":
    sys.exit(main())
