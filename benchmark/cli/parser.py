"""The command line: `benchmark VERB …`.

Exit codes: 0 done, 1 a check failed, 2 the user's input is wrong or the machine refuses (a full disk, a
folder without write permission), 130 interrupted with everything saved. Verbs import what they need when
they run, so `--help` and errors are quick.
"""

from __future__ import annotations

import argparse
import importlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmark.components import plugins, registry
from benchmark.core.errors import REFUSALS, CheckFailed, ParamsError, UserError, refused, unknown

VERBS = (
    "plan", "data", "train", "sweep", "adopt", "leaderboard", "claims", "verdicts", "advise", "sync",
    "verify", "provenance", "sites", "new", "export", "components", "doctor",
)  # fmt: skip
"""In the order of `--help`. Each has a file here, with HELP, `run` and, if needed, `add_arguments`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal with ASCII alone shows `\xb1` for `±`.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(argv)

    def run() -> None:
        with plugins.added(arguments.plugins + arguments.more_plugins):
            registry.check_plugins()
            try:
                arguments.run(arguments)
            except ParamsError as error:
                raise UserError(f"{_params_file(arguments)}: {error}") from None

    return exit_code("benchmark", run)


def _params_file(arguments: argparse.Namespace) -> str:
    from benchmark.config.overrides import described
    from benchmark.config.params import track_file
    from benchmark.config.yaml_file import shown

    file = track_file(arguments.root, getattr(arguments, "track", "mini"))
    return described(shown(file), getattr(arguments, "overrides", ()))


def exit_code(program: str, run: Callable[[], None]) -> int:
    """Runs a program and returns its exit code; an error is printed in one line."""
    try:
        run()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except CheckFailed as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run the same command again to finish", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output (a pager, head) has ended: not an error.
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        print(f"{program}: {UserError(refused(error))}", file=sys.stderr)
        return 2
    return 0


class Parser(argparse.ArgumentParser):
    """Prints an error in one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2, without the usage that `--help` shows."""
        # Only verbs and kinds have a list of choices.
        if match := re.search(r"argument (\w+): invalid choice: '(.*)' \((.*)\)", message):
            names = re.findall(r"[\w-]+", match[3].removeprefix("choose from "))
            message = str(unknown(match[1].lower(), match[2], names))
        self.exit(2, f"benchmark: {message} (see `uv run {self.prog} --help`)\n")


class _VerbParser(Parser):
    """The grammar of one verb, whose file is imported if the command names it."""

    verb: str

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse."""
        module = importlib.import_module(f"benchmark.cli.{self.verb}")
        if hasattr(module, "add_arguments"):
            module.add_arguments(self)
        self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = Parser(
        prog="benchmark",
        description="Normalization schemes in self-supervised learning, compared reproducibly.",
    )
    _plugin(top, "plugins")
    verbs = top.add_subparsers(required=True, metavar="VERB", parser_class=_VerbParser)
    for name in VERBS:
        text = str(registry.constant(Path(__file__).with_name(f"{name}.py"), "HELP"))
        verb = verbs.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
        verb.verb = name
        verb.set_defaults(root=Path.cwd())
        _plugin(verb, "more_plugins")
    return top


def _plugin(grammar: argparse.ArgumentParser, target: str) -> None:
    """Before the verb and after it, with a target each: a verb's would replace the other's."""
    grammar.add_argument(
        "--plugin", action="append", dest=target, default=[], metavar="FILE",
        help="a norm, method or data source in a file of yours (repeatable; also BENCHMARK_PLUGINS)",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
