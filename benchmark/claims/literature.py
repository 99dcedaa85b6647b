"""The published results that bear on the claims, and whether our records order the same rows alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from benchmark import params, plan, yamlfile
from benchmark.claims import file
from benchmark.claims.shelf import Shelf
from benchmark.errors import UserError, unknown
from benchmark.report.statistics import half_width, mean, pool
from benchmark.report.tables import escape
from benchmark.schema import Model, Params

NAME = "literature.yaml"

METRICS = {
    "knn": "kNN",
    "knn_reestimated": "kNN, statistics re-estimated",
    "pretext": "pretext accuracy",
}
"""What two rows can be compared by, and its name for people."""


HEAD = ("| source | setting | result | seen | here |", "|:--|:--|:--|:--|:--|")


class Ordering(Model):
    """Two rows of ours that ask what a source answers, in the order that it states."""

    experiment: str
    metric: Literal["knn", "knn_reestimated", "pretext"]
    higher: str
    lower: str


class Entry(Model):
    """One published result."""

    claims: tuple[str, ...] = Field(min_length=1)
    """The claims it bears on."""
    source: str
    """Authors and title."""
    at: str
    """Its arXiv number or its address."""
    place: str | None = None
    """Table, section or file, where known."""
    year: int | None = Field(ge=1900)
    """Null where the source has no date."""
    setting: str
    result: str
    """In our own words, with the source's figures."""
    status: Literal["A", "B"]
    """A: read in the paper, its code or its README; B: seen only as others quote it."""
    compare: tuple[Ordering, ...] = ()
    not_comparable: str | None = None
    """Why no rows of ours ask the same; given where `compare` is not."""


class Contents(Model):
    """A whole `literature.yaml`."""

    entries: dict[str, Entry]


@dataclass(frozen=True)
class Library:
    """What was published, and the titles of the claims it bears on."""

    entries: Mapping[str, Entry]
    titles: Mapping[str, str]


@dataclass(frozen=True)
class Judged:
    """What the records of one track say of an ordering."""

    word: str
    """`agrees`, `disagrees`, `undecided` or `not yet run`."""
    difference: float | None = None
    """The row that should be higher minus the other, in 0..1; the mean over the seeds of both."""
    half: float | None = None
    """Half of the interval of the difference, null without a spread."""


def tracks(root: Path) -> dict[str, Params]:
    """The params of every track of the project by name, `mini` first."""
    names = ["mini", *sorted(path.parent.name for path in root.glob("tracks/*/params.yaml"))]
    return {name: params.read(params.track_file(root, name)) for name in names}


def shelves(root: Path) -> dict[str, Shelf]:
    """A shelf for every track of the project, `mini` first."""
    return {name: Shelf(root, found) for name, found in tracks(root).items()}


def read(root: Path) -> Library:
    """The library of the project in `root`, checked against its claims and its tracks' params.

    Raises UserError, of one line, for a key, a claim, an experiment or a row that does not exist.
    """
    path = root / NAME
    if not path.is_file():
        raise UserError(f"no {NAME} in {root}: run this at the top of the project")
    entries = yamlfile.parse(Contents, yamlfile.load(path), path.name).entries
    titles = {name: claim.title for name, claim in file.read(root).claims.items()}
    known = tracks(root)
    for name, entry in entries.items():
        where = f"{NAME}: {name}"
        for claim in entry.claims:
            if claim not in titles:
                raise unknown(f"claim in {where}", claim, titles)
        if bool(entry.compare) == (entry.not_comparable is not None):
            raise UserError(f"{where}: needs either compare or not_comparable, and not both")
        for ordering in entry.compare:
            _check(where, ordering, known)
    return Library(entries, titles)


def _check(where: str, ordering: Ordering, known: Mapping[str, Params]) -> None:
    """Raises UserError unless some track has an experiment with both rows."""
    experiment = ordering.experiment
    having = [found for found in known.values() if experiment in found.experiments]
    if not having:
        experiments = {name for found in known.values() for name in found.experiments}
        raise unknown(f"experiment in {where}", experiment, experiments)
    rows = {str(row) for found in having for row in plan.rows(found, experiment)}
    for row in (ordering.higher, ordering.lower):
        if row not in rows:
            raise unknown(f"row of experiment {experiment} in {where}", row, rows)


def judge(ordering: Ordering, shelf: Shelf) -> Judged | None:
    """What a track's records say of an ordering; None where the track does not have its rows.

    The difference is the mean over the seeds of both rows. Its interval takes the standard deviation s
    within rows, pooled over these two: ± t(.975, df) · s · √(2 / n). As seeds are paired this is wide
    rather than narrow. It describes: 95 % for each ordering, not adjusted for their number, and no
    verdict rests on it. A seed that failed leaves it undecided, since those left are a selection.
    """
    if ordering.experiment not in shelf.params.experiments:
        return None
    rows = {str(row): row for row in plan.rows(shelf.params, ordering.experiment)}
    if ordering.higher not in rows or ordering.lower not in rows:
        return None
    pair = [shelf.row(ordering.experiment, row) for row in (ordering.higher, ordering.lower)]
    if any(shelved.missing for shelved in pair):
        return Judged("not yet run")
    higher, lower = (shelf.values(shelved, ordering.metric) for shelved in pair)
    common = sorted(higher.keys() & lower.keys())
    if len(higher) < len(pair[0].seeds) or len(lower) < len(pair[1].seeds) or not common:
        return Judged("undecided")
    difference = mean([higher[seed] - lower[seed] for seed in common])
    half = half_width(pool([list(higher.values()), list(lower.values())]), len(common))
    if half is None:
        return Judged("undecided", difference)
    half *= math.sqrt(2)
    if abs(difference) <= half:
        return Judged("undecided", difference, half)
    return Judged("agrees" if difference > 0 else "disagrees", difference, half)


def compare(entry: Entry, shelf: Shelf) -> str:
    """One word for all orderings of an entry on a track.

    `agrees` or `disagrees` where they all do, `not yet run` where one is not, `not comparable` where
    there is none that the track has, else `undecided`; see `judge`.
    """
    found = [judged.word for ordering in entry.compare if (judged := judge(ordering, shelf))]
    if not found:
        return "not comparable"
    if "not yet run" in found:
        return "not yet run"
    return found[0] if len(set(found)) == 1 else "undecided"


def markdown(library: Library, shelves: Mapping[str, Shelf]) -> str:
    """The library for people, claim by claim; `shelves` are those of the tracks to compare with."""
    parts = ["# Published results, and what the records here say", _bullets(_reading())]
    for claim, title in library.titles.items():
        parts.append(f"## {claim}: {escape(title)}")
        lines = [
            f"| {' | '.join(_cells(entry, shelves))} |"
            for entry in library.entries.values()
            if claim in entry.claims
        ]
        parts.append("\n".join([*HEAD, *lines]) if lines else "Nothing that we know of.")
    return "\n\n".join(parts) + "\n"


def _reading() -> Iterator[str]:
    yield (
        "**result**: top-1 accuracy of a linear probe on ImageNet in %, unless the setting says "
        "otherwise, in our words."
    )
    yield (
        "**seen**: *read* in the paper, its code or its README; **quoted**: seen only as others quote "
        "it, so the figures may be wrong."
    )
    yield (
        "**here**: whether the records of a track put two rows into the order that the source states. "
        "The difference is the mean over the seeds of both rows, with an interval of 95 % whose spread "
        "is pooled over the two. *agrees* and *disagrees*: the interval leaves out zero; *undecided*: "
        "it does not, or a seed failed. This describes; it is not adjusted for the number of "
        "comparisons, and no verdict rests on it. Data and networks are smaller than the sources'."
    )
    yield (
        "*not comparable*: no rows here ask the same of the same method. *not yet run*: a row lacks "
        "records."
    )


def _cells(entry: Entry, shelves: Mapping[str, Shelf]) -> Iterator[str]:
    at = entry.at
    if at[:4].isdigit() and at[4:5] == ".":
        at = f"[{at}](https://arxiv.org/abs/{at})"
    elif at.startswith("https://"):
        at = f"[{escape(at.removeprefix('https://'))}]({at})"
    else:
        at = escape(at)
    year = f" ({entry.year})" if entry.year else ""
    place = f", {escape(entry.place)}" if entry.place else ""
    yield f"{escape(entry.source)}{year}, {at}{place}"
    yield escape(entry.setting)
    yield escape(entry.result)
    yield "read" if entry.status == "A" else "**quoted**"
    if entry.not_comparable is not None:
        yield f"not comparable: {escape(entry.not_comparable)}"
        return
    yield "<br>".join(_said(ordering, shelves) for ordering in entry.compare)


def _said(ordering: Ordering, shelves: Mapping[str, Shelf]) -> str:
    words = []
    for track, shelf in shelves.items():
        judged = judge(ordering, shelf)
        if judged is None:
            continue
        shown = f"{escape(track)} **{judged.word}**"
        if judged.difference is not None:
            shown += f" ({100 * judged.difference:+.1f}"
            shown += " points)" if judged.half is None else f" ± {100 * judged.half:.1f} points)"
        words.append(shown)
    what = f"`{ordering.higher}` above `{ordering.lower}` in {METRICS[ordering.metric]}"
    where = f"experiment {escape(ordering.experiment)}"
    return f"{what} ({where}): {', '.join(words) or 'on none of these tracks'}"


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
