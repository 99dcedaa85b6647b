"""Published results that bear on the claims, compared with the order of the same rows here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import Field

from benchmark.analysis.claims import load
from benchmark.analysis.statistics import half_width, pooled_spread
from benchmark.config import params, yaml_file
from benchmark.config.schema import Model, Params
from benchmark.core.errors import UserError, unknown
from benchmark.planning import plan
from benchmark.results.rows import RecordIndex

NAME = "literature.yaml"

METRICS = {
    "knn": "kNN",
    "knn_reestimated": "kNN, statistics re-estimated",
    "pretext": "pretext accuracy",
}
"""The metrics that two rows can be compared by, with the names that pages show."""


class Ordering(Model):
    """Two rows of ours with the question of a source, in the order that it states."""

    experiment: str
    metric: Literal["knn", "knn_reestimated", "pretext"]
    higher: str
    lower: str
    claims: tuple[str, ...] | None = None
    """Those of the entry's claims that it bears on; all of them if not given."""


class Entry(Model):
    """One published result."""

    claims: tuple[str, ...]
    """The claims that it bears on; none for a level that a track may aim at."""
    source: str
    """Authors and title."""
    at: str
    """Its arXiv number or URL."""
    place: str | None = None
    """Table, section or file, if known."""
    year: int | None = Field(ge=1900)
    """Null if the source has no date."""
    setting: str
    result: str
    """In our own words, with the source's figures."""
    status: Literal["A", "B"]
    """A: read in the paper, its code or its README. B: seen only as others quote it."""
    compare: tuple[Ordering, ...] = ()
    not_comparable: str | None = None
    """Why no rows of ours ask the same; given if `compare` is not."""


class Contents(Model):
    """A whole `literature.yaml`."""

    entries: dict[str, Entry]


@dataclass(frozen=True)
class Library:
    """The published results, and the titles of the claims that they bear on."""

    entries: Mapping[str, Entry]
    titles: Mapping[str, str]

    @property
    def orderings(self) -> list[tuple[Entry, Ordering]]:
        """Every ordering, with the entry that states it."""
        return [(entry, found) for entry in self.entries.values() for found in entry.compare]

    def bearing(self, claim: str | None) -> list[Entry]:
        """The entries that bear on a claim; for None, those that bear on none."""
        entries = self.entries.values()
        return [own for own in entries if (claim in own.claims if claim else not own.claims)]


@dataclass(frozen=True)
class Comparison:
    """What the records of one track show of an ordering."""

    word: str
    """`agrees`, `disagrees`, `undecided` or `not yet run`."""
    difference: float | None = None
    """The row that should be higher minus the other, in 0..1; the mean over the seeds of both."""
    half: float | None = None
    """Half of the interval of the difference, null if there is no spread."""


def indexes(root: Path, own: Params | None = None) -> dict[str, RecordIndex]:
    """An index of the records of every track of the project by name, `mini` first.

    `own` are the params of one track, if already read; those of the others are read from their files.
    """
    names = ["mini", *sorted(path.parent.name for path in root.glob("tracks/*/params.yaml"))]
    known = {own.track: own} if own else {}
    return {
        name: RecordIndex(root, known.get(name) or params.read(params.track_file(root, name)))
        for name in names
    }


def read(root: Path, known: Mapping[str, RecordIndex] | None = None) -> Library:
    """The library of the project in `root`, checked against its claims and its tracks' params.

    `known` are the `indexes` of the project, if already made. Raises UserError for a key, a claim, an
    experiment or a row that does not exist.
    """
    path = root / NAME
    if not path.is_file():
        raise UserError(f"no {NAME} in {root}: run this at the top of the project")
    entries = yaml_file.parse(Contents, yaml_file.load(path), path.name).entries
    titles = {name: claim.title for name, claim in load.read(root).claims.items()}
    tracks = [index.params for index in (known or indexes(root)).values()]
    for name, entry in entries.items():
        where = f"{NAME}: {name}"
        for claim in entry.claims:
            if claim not in titles:
                raise unknown(f"claim in {where}", claim, titles)
        if bool(entry.compare) == (entry.not_comparable is not None):
            raise UserError(f"{where}: needs either compare or not_comparable, and not both")
        for ordering in entry.compare:
            for claim in ordering.claims or ():
                if claim not in entry.claims:
                    raise unknown(f"claim of an ordering in {where}", claim, entry.claims)
            _check(where, ordering, tracks)
    return Library(entries, titles)


def _check(where: str, ordering: Ordering, tracks: Sequence[Params]) -> None:
    """Raises UserError unless some track has an experiment with both rows."""
    experiment = ordering.experiment
    having = [track for track in tracks if experiment in track.experiments]
    if not having:
        experiments = {name for track in tracks for name in track.experiments}
        raise unknown(f"experiment in {where}", experiment, experiments)
    rows = {str(row) for track in having for row in plan.rows(track, experiment)}
    pair = ordering.higher, ordering.lower
    for row in pair:
        if row not in rows:
            raise unknown(f"row of experiment {experiment} in {where}", row, rows)
    if not any(_has(ordering, track) for track in having):
        raise UserError(f"{where}: no track has both {' and '.join(pair)} in its {experiment}")


def _has(ordering: Ordering, track: Params) -> bool:
    """Whether a track has the two rows of an ordering."""
    if ordering.experiment not in track.experiments:
        return False
    rows = {str(row) for row in plan.rows(track, ordering.experiment)}
    return rows.issuperset((ordering.higher, ordering.lower))


def compared(
    library: Library, known: Mapping[str, RecordIndex], judged: str
) -> dict[str, RecordIndex]:
    """Those of the `indexes` that published results are compared with, by the name of the track.

    They are the track `judged`, and each that has a `claims.json` or a record of a row of an ordering.
    """

    def published(name: str, index: RecordIndex) -> bool:
        return (index.root / "results" / name / "claims.json").is_file() or any(
            index.row(ordering.experiment, row).records
            for _, ordering in library.orderings
            if _has(ordering, index.params)
            for row in (ordering.higher, ordering.lower)
        )

    return {
        name: index for name, index in known.items() if name == judged or published(name, index)
    }


def compare_rows(ordering: Ordering, index: RecordIndex) -> Comparison | None:
    """The two rows of an ordering in a track's records; None if the track does not have them.

    The difference is the mean over the seeds of both rows. Its interval takes the standard deviation s
    within rows, pooled over these two: ± t(.975, df) · s · √(2 / n). As seeds are paired this is rather
    too wide. It is descriptive: 95 % for each ordering, not adjusted for their number, and no verdict
    rests on it. A seed that failed leaves the order undecided, as the others are a selection.
    """
    if not _has(ordering, index.params):
        return None
    pair = [index.row(ordering.experiment, row) for row in (ordering.higher, ordering.lower)]
    if any(own.missing for own in pair):
        return Comparison("not yet run")
    higher, lower = (index.values(own, ordering.metric) for own in pair)
    common = sorted(higher.keys() & lower.keys())
    if len(higher) < len(pair[0].seeds) or len(lower) < len(pair[1].seeds) or not common:
        return Comparison("undecided")
    difference = fmean(higher[seed] - lower[seed] for seed in common)
    spread = pooled_spread([list(higher.values()), list(lower.values())])
    half = half_width(spread, len(common), len(common))
    if half is None or abs(difference) <= half:
        return Comparison("undecided", difference, half)
    return Comparison("agrees" if difference > 0 else "disagrees", difference, half)


def compare(entry: Entry, index: RecordIndex, claim: str | None = None) -> str:
    """One word for all orderings of an entry on a track, or for those that bear on a claim.

    `agrees` or `disagrees` if they all do, `not yet run` if one has not been run, `not comparable` if
    the track has none of them, else `undecided`; see `compare_rows`.
    """
    bearing = (
        ordering
        for ordering in entry.compare
        if claim is None or ordering.claims is None or claim in ordering.claims
    )
    compared = (compare_rows(ordering, index) for ordering in bearing)
    words = {comparison.word for comparison in compared if comparison}
    if not words:
        return "not comparable"
    if "not yet run" in words:
        return "not yet run"
    return words.pop() if len(words) == 1 else "undecided"
