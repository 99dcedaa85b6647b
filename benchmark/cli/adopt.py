"""`benchmark adopt`: checks records that another machine made and publishes them."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.cli.common import add_set, read_params, say_overrides
from benchmark.config.params import tracks
from benchmark.config.schema import Params
from benchmark.core.errors import UserError, unknown
from benchmark.results.adopt import adopt
from benchmark.results.records import store

HELP = "check records of another machine and publish them"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    verb.add_argument("folder", metavar="FOLDER", type=Path, help="a store, or a copy of its cells")
    verb.add_argument("--track", metavar="T", help="only this track (default: all)")
    verb.add_argument("--experiment", metavar="E", help="only this experiment (default: all)")
    add_set(verb)


def run(arguments: argparse.Namespace) -> None:
    """Adopts all records of the folder or none."""
    if arguments.overrides and arguments.track is None:
        raise UserError("--set changes the params of one track: name it with --track")
    read = _params(arguments)
    if arguments.overrides:
        say_overrides(read[0])
    found = adopt(
        arguments.folder, arguments.root, read, arguments.experiment, store(arguments.root)
    )
    for line in found.lines:
        print(line)
    print(f"{found.new} adopted")


def _params(arguments: argparse.Namespace) -> list[Params]:
    """The params of the named track, or of every track that has the named experiment."""
    given = [arguments.track] if arguments.track is not None else tracks(arguments.root)
    read = [
        read_params(
            argparse.Namespace(root=arguments.root, track=track, overrides=arguments.overrides)
        )
        for track in given
    ]
    name = arguments.experiment
    chosen = [one for one in read if name is None or name in one.experiments]
    if not chosen:
        raise unknown("experiment", name, {e for one in read for e in one.experiments})
    return chosen
