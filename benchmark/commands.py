"""What each verb of the command line does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark import canonical, collect, params, registry
from benchmark import plan as planning
from benchmark import sweep as sweeping
from benchmark.errors import CheckFailed, UserError, unknown
from benchmark.paths import data_folder, dataset_checksum
from benchmark.plan import Cell, Row
from benchmark.provenance import published as origins
from benchmark.records import Store, store
from benchmark.schema import Params


def read_params(arguments: argparse.Namespace) -> Params:
    """The params of the track that the command names."""
    found = params.read(params.track_file(arguments.root, arguments.track))
    if found.track != arguments.track:
        raise UserError(f"track is {found.track!r}, expected {arguments.track!r}")
    return found


def planned(arguments: argparse.Namespace, found: Params) -> list[Cell]:
    """The cells that the command names, with tuned learning rates where the experiment asks for them."""
    table = sweeping.load(sweeping.path(arguments.root, found.track, arguments.experiment))
    return _chosen(arguments, found, sweeping.settings(table))


def _chosen(
    arguments: argparse.Namespace, found: Params, rates: Mapping[Row, sweeping.Setting]
) -> list[Cell]:
    cells = planning.cells(found, arguments.experiment, rates)
    method = getattr(arguments, "method", None)
    if method is not None:
        methods = found.experiments[arguments.experiment].every("methods")
        if method not in methods:
            raise unknown(f"method of experiment {arguments.experiment}", method, methods)
        cells = [cell for cell in cells if cell.method == method]
    return cells


def named(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of these labels or full names, and all seeds of a row's (`simclr-resnet-bn`)."""
    known: dict[str, list[Cell]] = {}
    for cell in cells:
        for label in (cell.label, cell.label.removesuffix(f"-s{cell.seed}")):
            known.setdefault(label, []).append(cell)
            known.setdefault(cell.name.removesuffix(cell.label) + label, []).append(cell)
    chosen: dict[str, Cell] = {}
    for name in names:
        if name not in known:
            raise unknown("cell", name, [cell.label for cell in cells])
        chosen |= {cell.label: cell for cell in known[name]}
    return list(chosen.values())


def plan(arguments: argparse.Namespace) -> None:
    """Lists cells and their state."""
    from benchmark.listing import table

    found = read_params(arguments)
    tuned = sweeping.settings(
        sweeping.load(sweeping.path(arguments.root, found.track, arguments.experiment))
    )
    rows = planning.rows(found, arguments.experiment)
    defaults = {
        row: planning.default_setting(found, row)
        for row in rows
        if planning.is_trained(found, row.method)
    }
    cells = _chosen(arguments, found, defaults | tuned)
    untuned = {row for row in defaults if planning.tuned_row(found, row) not in tuned}
    if found.experiments[arguments.experiment].learning_rates == "default":
        untuned = set()
    try:
        dataset: str | None = dataset_checksum(arguments.root, found)
    except UserError:
        dataset = None
    entries = table(cells, dataset, untuned, store(arguments.root), arguments.root)
    if arguments.json:
        print(json.dumps(entries, indent=1))
        return
    width = max(len(entry["cell"]) for entry in entries)
    for entry in entries:
        cost = entry["seconds"]
        seconds = f"  {cost:6.0f} s" if cost is not None else ""
        print(f"{entry['cell']:{width}}  {entry['state']:8}{seconds}")
    missing = [entry for entry in entries if entry["state"] != "done"]
    known = [entry["seconds"] for entry in missing if entry["seconds"] is not None]
    print(f"{len(entries)} cells, {len(missing)} to train", end="")
    print(f", about {sum(known) / 60:.0f} core-minutes" if known else "")
    if dataset is None:
        print(f"the images are not built yet: `benchmark data {found.track}`")
    if untuned:
        trials = found.sweep.learning_rates * len(found.sweep.seeds)
        print(
            f"{len(untuned)} rows have no tuned learning rate yet, some {trials} trials each: "
            f"`{planning.sweep_command(found.track, arguments.experiment)}`"
        )


def data(arguments: argparse.Namespace) -> None:
    """Fetches, verifies and builds a track's images."""
    found = read_params(arguments)
    from benchmark.data.build import build

    manifest = build(
        found.track, found.data.source, found.data.options, found.data.splits.model_dump(),
        found.data.seed, data_folder(arguments.root, found.track),
        arguments.root / "data" / "downloads",
    )  # fmt: skip
    counts = ", ".join(f"{name} {part['count']}" for name, part in manifest["splits"].items())
    print(f"{found.track}: {counts}; sha256 {manifest['sha256']}")


def train(arguments: argparse.Namespace) -> None:
    """Trains what is missing; publishes the records of whole methods."""
    found = read_params(arguments)
    cells = planned(arguments, found)
    if arguments.cell:
        cells = named(cells, arguments.cell)
    dataset = dataset_checksum(arguments.root, found)
    # A fresh clone has the published records and an empty store: only what is new is trained.
    _train(
        arguments, found, cells, dataset,
        lambda missing: collect.published(missing, dataset, arguments.root),
    )  # fmt: skip
    kept = store(arguments.root)
    if arguments.cell:
        for cell in cells:
            print(kept.of(cell.fingerprint(dataset)) / "record.json")
        return
    for method in dict.fromkeys(cell.method for cell in cells):
        target = collect.folder(arguments.root, found.track, arguments.experiment, method)
        of_method = [cell for cell in cells if cell.method == method]
        collect.publish(of_method, dataset, kept, target)
        origins.publish(arguments.root, of_method, dataset, kept)


def _train(
    arguments: argparse.Namespace,
    found: Params,
    cells: Sequence[Cell],
    dataset: str,
    published: Callable[[Sequence[Cell]], Sequence[Mapping[str, Any]]] = lambda missing: (),
) -> None:
    from benchmark.launch import Stopped, train_missing

    try:
        summary = train_missing(
            cells, store(arguments.root), data_folder(arguments.root, found.track), dataset,
            jobs(arguments.jobs), arguments.device, published,
        )  # fmt: skip
    except Stopped:
        raise KeyboardInterrupt from None
    print(
        f"{summary.trained} trained, {summary.found} found done, {len(summary.crashed)} crashed",
        file=sys.stderr,
    )
    for line in summary.crashed:
        print(f"  crashed: {line}", file=sys.stderr)


def jobs(text: str) -> int | None:
    """The number of workers that `--jobs` asks for, None for `auto`."""
    return count(text, "--jobs")


def count(text: str, option: str) -> int | None:
    """The number that an option asks for, None for `auto`."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise UserError(f"{option} is {text!r}, expected auto or a number from 1")
    return int(text)


def sweep(arguments: argparse.Namespace) -> None:
    """Tunes learning rates and writes the table."""
    found = read_params(arguments)
    dataset = dataset_checksum(arguments.root, found)
    target = sweeping.path(arguments.root, found.track, arguments.experiment)
    known = sweeping.known(arguments.root, found.track)
    metric = sweeping.metric(found)
    kept = store(arguments.root)
    prints: dict[str, str] = {}

    def results(cells: Sequence[Cell]) -> Mapping[str, sweeping.Result]:
        prints.update({cell.label: cell.fingerprint(dataset) for cell in cells})
        _train(arguments, found, [c for c in cells if prints[c.label] not in known], dataset)
        return {cell.label: _trial(kept, prints[cell.label], known, metric) for cell in cells}

    table = sweeping.tune(
        found, arguments.experiment, results, lambda line: print(line, file=sys.stderr)
    )
    sweeping.write(target, found, arguments.experiment, table, prints)
    print(target)


def _trial(
    kept: Store, fingerprint: str, known: Mapping[str, sweeping.Result], metric: str
) -> sweeping.Result:
    if fingerprint in known:
        return known[fingerprint]
    entry = kept.record(fingerprint) or kept.crash(fingerprint)
    if entry is None:
        raise RuntimeError(f"cell {fingerprint} left no record")
    return sweeping.Result(entry["status"], entry["result"]["metrics"].get(metric))


def leaderboard(arguments: argparse.Namespace) -> None:
    """Rebuilds tables and figures."""
    from benchmark.report.leaderboard import write

    for path in write(arguments.root, read_params(arguments), arguments.experiment):
        print(path)


def claims(arguments: argparse.Namespace) -> None:
    """Judges every claim and writes what its verdict rests on."""
    from benchmark.claims.report import write

    for path in write(arguments.root, read_params(arguments).track):
        print(path)


def advise(arguments: argparse.Namespace) -> None:
    """Says which schemes the records advise."""
    from benchmark import advise as advising
    from benchmark.claims.shelf import Shelf

    shelf = Shelf(arguments.root, read_params(arguments))
    lines = advising.advise(shelf, arguments.method, arguments.backbone, arguments.batch)
    print("\n".join(lines))


def sync(arguments: argparse.Namespace) -> None:
    """Brings MLflow up to date."""
    from benchmark import tracking

    if arguments.watch:
        tracking.watch(arguments.root, arguments.track, arguments.uri)
        return
    print(tracking.sync(arguments.root, arguments.track, arguments.uri))
    if arguments.stamp:
        # Not the other experiments' records: those are no part of the pipeline whose output this is.
        published = collect.read(collect.folder(arguments.root, arguments.track, "leaderboard"))
        stamp = {entry.name: entry.checksum for entry in published}
        canonical.write(arguments.root / arguments.stamp, canonical.pretty(stamp))


def speed(arguments: argparse.Namespace) -> None:
    """Times trainings beside other libraries' pipelines, and what stands around them."""
    from benchmark.launch import cores
    from benchmark.speed.measure import PARTS, speed

    parts = arguments.part or PARTS
    for part in parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    threads = [count(text, "--threads") for text in arguments.threads.split(",")]
    if arguments.rounds < 1 or not 0 < arguments.seconds < 3600:
        raise UserError("--rounds starts at 1, --seconds is more than 0 and less than 3600")
    page = speed(
        arguments.root, arguments.device, parts, arguments.case or (),
        [number or cores() for number in threads], arguments.rounds, arguments.seconds,
    )  # fmt: skip
    print(page)


def verify(arguments: argparse.Namespace) -> None:
    """Trains cells again from nothing and compares."""
    from benchmark import verify as verifying

    found = read_params(arguments)
    cells = planned(arguments, found)
    if arguments.cells:
        cells = named(cells, arguments.cells)
    if arguments.sample is not None and arguments.sample < 1:
        raise UserError(f"--sample is {arguments.sample}, expected a number from 1")
    if arguments.sample:
        cells = verifying.sample(cells, arguments.sample, arguments.draw)
    verdicts = verifying.verify(
        arguments.root, found, cells, jobs(arguments.jobs), arguments.device
    )
    for entry in verdicts:
        print(f"{entry.cell.label:40} {entry.verdict:16} {entry.detail}")
    accepted = {"identical"} if arguments.exact else {"identical", "within tolerance"}
    if failed := [entry.cell.label for entry in verdicts if entry.verdict not in accepted]:
        raise CheckFailed(f"{len(failed)} of {len(verdicts)} cells differ: {', '.join(failed)}")


def provenance(arguments: argparse.Namespace) -> None:
    """Follows published records back to what made them."""
    from benchmark.provenance import chain

    cells = named(planned(arguments, read_params(arguments)), arguments.cells)
    for place, cell in enumerate(cells):
        if place:
            print()
        for line in chain.lines(arguments.root, cell):
            print(line)


def component_versions() -> dict[str, Any]:
    """The version of every component and part of the package; plug-ins are the user's own.

    The file is under version control, and must not depend on what one user has beside it.
    """
    return {
        **{
            kind: {name: facts["version"] for name, facts in registry.own(kind).items()}
            for kind in registry.FOLDERS
        },
        "part": {part: planning.part_version(part) for part in planning.PARTS},
    }


def components(arguments: argparse.Namespace) -> None:
    """Writes the versions that DVC watches."""
    target = arguments.root / "components.json"
    canonical.write(target, canonical.pretty(component_versions()))
    print(target)


def doctor(arguments: argparse.Namespace) -> None:
    """Describes the machine."""
    from benchmark.doctor import report

    print("\n".join(report(arguments.root)))
