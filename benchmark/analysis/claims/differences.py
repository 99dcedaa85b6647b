"""A difference of two arms over paired seeds: its estimate, or what it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmark.analysis import contrasts
from benchmark.analysis.claims.arms import Arm, arm, bar
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Claims, Pair
from benchmark.analysis.contrasts import Finding
from benchmark.analysis.statistics import Measured, Spread
from benchmark.planning import plan
from benchmark.results.rows import RecordIndex


@dataclass(frozen=True)
class Paired:
    """The values of both arms for a seed, null where one has none."""

    seed: int
    plus: Measured | None
    minus: Measured | None
    difference: Measured | None
    """Null without an estimate too: nothing is said of a part of the seeds."""


@dataclass(frozen=True)
class Cell:
    """A cell of an arm and its published record."""

    name: str
    status: str
    """`missing` without a record."""
    sha256: str | None
    marks: tuple[str, ...]
    """The flaws of the record's provenance."""


@dataclass(frozen=True)
class Difference:
    """`plus` minus `minus`, seed by seed."""

    plus: Arm
    minus: Arm
    lacking: tuple[str, ...]
    """In words, why there is no estimate: nothing is estimated from a part of the seeds."""
    finding: Finding | None
    correlation: float | None
    """Of the two arms' values over the seeds; null without an estimate."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The paired seeds."""
        return self.plus.seeds

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """Both."""
        return self.plus, self.minus

    @property
    def pairs(self) -> tuple[Paired, ...]:
        """The values, seed by seed."""
        found = []
        for seed in self.seeds:
            plus, minus = (own.values.get(seed) for own in self.arms)
            gap = None
            if self.finding and plus is not None and minus is not None:
                gap = plus - minus
            found.append(Paired(seed, plus, minus, gap))
        return tuple(found)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell of both arms once, those without a record too."""
        found: dict[str, Cell] = {}
        for row, seed in (
            (row, seed) for own in self.arms for row in own.rows for seed in own.seeds
        ):
            entry, name = row.records.get(seed), f"{row.name}-s{seed}"
            status = entry.record.status if entry else "missing"
            marks = row.marks.get(seed, ())
            found[name] = Cell(name, status, entry.checksum if entry else None, marks)
        return tuple(found.values())

    @property
    def higher(self) -> Arm | None:
        """The arm of the higher mean; None for equals, and without an estimate."""
        if self.finding is None or self.finding.estimate == 0:
            return None
        return self.plus if self.finding.estimate > 0 else self.minus


def difference(
    index: RecordIndex, claims: Claims, advice: Advice, pair: Pair, comparisons: int = 1
) -> Difference:
    """The difference of a pair of arms on the seeds that both ask for.

    With one comparison the interval is that of this difference alone. Raises UserError where the
    experiment lacks a row of an arm.
    """
    asked = [(advice, pair.plus), (advice.of_minus, pair.minus)]
    whole = [arm(index, claims, own, name) for own, name in asked]
    seeds = [seed for seed in whole[0].seeds if seed in whole[1].seeds]
    plus, minus = (arm(index, claims, own, name, seeds) for own, name in asked)
    if lacking := tuple(_lacking(index, claims, advice, (plus, minus))):
        return Difference(plus, minus, lacking, None, None)
    values = [[side.values[seed] for seed in seeds] for side in (plus, minus)]
    finding = contrasts.judge(
        contrasts.contrast(f"{pair.plus} minus {pair.minus}", values[:1], values[1:]),
        spread(index, claims, advice),
        comparisons=comparisons,
        margin=claims.margins.get(advice.metric),
    )
    if len(seeds) < 2:
        # Others' spread over seeds is not this difference's.
        finding = replace(
            finding, low=None, high=None, se=None, p=1.0, p_adjusted=1.0, significant=False,
            p_equivalence=None, equivalent=None, detectable=None,
        )  # fmt: skip
    return Difference(plus, minus, (), finding, contrasts.correlation(*values))


def spread(index: RecordIndex, claims: Claims, advice: Advice) -> Spread:
    """The spread within the arms of an experiment, by recipe and backbone, without that of the seeds.

    Pooled are the rows that were trained with all of the experiment's own seeds, did not fail and have
    learnt; rows of the very same training runs count once. None of single values is the spread of a
    difference between two measurements of the same networks, so that has its own alone.
    """
    if advice.minus_metric:
        return Spread(None, 0)
    seeds = index.params.experiments[advice.experiment].seeds
    groups: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for group, name in _candidates(index, advice):
        own = arm(index, claims, advice, name, seeds)
        if own.seeds != seeds or missing(own) or failed(own, advice) or not own.learnt:
            continue
        if all(seed in own.values for seed in seeds):
            fingerprints = tuple(
                row.records[seed].record.fingerprint for row in own.rows for seed in seeds
            )
            groups.setdefault(group, {})[fingerprints] = [own.values[seed] for seed in seeds]
    return contrasts.pool([list(group.values()) for group in groups.values()])


def _candidates(index: RecordIndex, advice: Advice) -> Iterator[tuple[str, str]]:
    """The arms of an experiment that could have the metric, each with the name of its group."""
    rows = index.rows(advice.experiment)
    if advice.metric == STABLE_RATE:
        names = {str(row) for row in rows}
        for scheme in dict.fromkeys(row.scheme for row in rows):
            if names.issuperset(advice.rows(scheme)):
                yield "rates", scheme
        return
    for row in rows:
        if plan.is_trained(index.params, row.method):
            yield f"{row.method}-{row.backbone}", str(row)


def missing(own: Arm) -> dict[tuple[int, ...], list[str]]:
    """The rows of an arm that have no record of some of its seeds, by those seeds."""
    found: dict[tuple[int, ...], list[str]] = {}
    for row in own.rows:
        if lost := tuple(seed for seed in own.seeds if seed not in row.records):
            found.setdefault(lost, []).append(str(row.row))
    return found


def failed(own: Arm, advice: Advice) -> list[str]:
    """The cells of an arm that ended otherwise than well, with how; of rates, divergence is a result."""
    allowed = ("diverged",) if advice.metric == STABLE_RATE else ()
    return [
        f"{row.row}-s{seed} {row.failed[seed]}"
        for row in own.rows
        for seed in own.seeds
        if seed in row.failed and row.failed[seed] not in allowed
    ]


def _lacking(
    index: RecordIndex, claims: Claims, advice: Advice, arms: Sequence[Arm]
) -> Iterator[str]:
    """Why a difference cannot be estimated: the first of records, results, controls that it lacks."""
    seeds = arms[0].seeds
    if not seeds:
        yield f"{arms[0].name} and {arms[1].name} have no seed in common"
        return
    lost: dict[tuple[int, ...], list[str]] = {}
    for own in arms:
        for by_seeds, rows in missing(own).items():
            whole = len(rows) == len(own.rows) > 1
            names = [f"{own.name} at any of {len(rows)} rates"] if whole else rows
            lost.setdefault(by_seeds, []).extend(names)
    for by_seeds, rows in lost.items():
        yield f"no record of {_and(rows)} for {seed_list(by_seeds)}"
    untuned = [
        str(row.row)
        for own in arms
        for row in own.rows
        if row.rate is None
        and index.params.experiments[advice.experiment].learning_rates == "tuned"
    ]
    if untuned:
        yield f"no learning rate was tuned for {_and(untuned)}"
    if lost or untuned:
        return
    ended = list(dict.fromkeys(cell for own in arms for cell in failed(own, advice)))
    if ended:
        cells = {f"{row.row}-s{seed}" for own in arms for row in own.rows for seed in seeds}
        yield f"{len(ended)} of {len(cells)} cells failed: {', '.join(ended)}"
        return
    rates = advice.metric == STABLE_RATE
    if not rates and (null := dict.fromkeys(line for own in arms for line in _null(own))):
        yield from null
        return
    bars = [bar(index, claims, advice.experiment, own.rows[0].row.backbone) for own in arms]
    if without := dict.fromkeys(found.row for found in bars if found.least is None):
        yield f"no bar from which on a row has learnt: {'; '.join(without)}"
        return
    for own in arms:
        if none := [seed for seed in seeds if seed not in own.values]:
            yield f"{own.name} has learnt at no rate for {seed_list(none)}"


def _null(own: Arm) -> Iterator[str]:
    if none := [seed for seed in own.seeds if seed not in own.values]:
        yield f"{own.name} has no finite value for {seed_list(none)}"
    elif own.accuracy is None:
        yield f"{own.name} lacks a kNN accuracy, which says whether it has learnt"


def seed_list(seeds: Sequence[int]) -> str:
    """E.g. `seed 3` or `seeds 0, 1`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _and(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
