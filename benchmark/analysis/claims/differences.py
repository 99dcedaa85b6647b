"""A difference of two arms over paired seeds: its estimate, or why there is none."""

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
    """The values of both arms for one seed, and their difference; null without an estimate.

    Values of a part of the seeds would be an estimate to whoever subtracts them.
    """

    seed: int
    plus: Measured | None
    minus: Measured | None
    difference: Measured | None


@dataclass(frozen=True)
class Cell:
    """A cell of an arm and its published record."""

    name: str
    status: str
    """`missing` if there is no record."""
    sha256: str | None
    marks: tuple[str, ...]
    """The flaws of the record's provenance."""


@dataclass(frozen=True)
class Difference:
    """`plus` minus `minus`, seed by seed."""

    plus: Arm
    minus: Arm
    lacking: tuple[str, ...]
    """Why there is no estimate, in words; nothing is estimated from a part of the seeds."""
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
        if self.finding is None:
            return tuple(Paired(seed, None, None, None) for seed in self.seeds)
        plus, minus = self.plus.values, self.minus.values
        return tuple(
            Paired(seed, plus[seed], minus[seed], plus[seed] - minus[seed]) for seed in self.seeds
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell of both arms once, also those without a record."""
        cells: dict[str, Cell] = {}
        for row in (row for own in self.arms for row in own.rows):
            marks = row.marks
            for seed in self.seeds:
                entry, name = row.records.get(seed), f"{row.name}-s{seed}"
                status, sha256 = ("missing", None)
                if entry:
                    status, sha256 = entry.record.status, entry.checksum
                cells[name] = Cell(name, status, sha256, marks.get(seed, ()))
        return tuple(cells.values())

    @property
    def higher(self) -> Arm | None:
        """The arm with the higher mean; None if they are equal, and without an estimate."""
        if self.finding is None or self.finding.estimate == 0:
            return None
        return self.plus if self.finding.estimate > 0 else self.minus


def difference(
    index: RecordIndex, claims: Claims, advice: Advice, pair: Pair, comparisons: int = 1
) -> Difference:
    """The difference of a pair of arms on the seeds that both ask for.

    With one comparison the interval is not adjusted. Raises UserError if the experiment lacks a row of
    an arm.
    """
    asked = [(advice, pair.plus), (advice.of_minus, pair.minus)]
    whole = [arm(index, claims, own, name) for own, name in asked]
    seeds = [seed for seed in whole[0].seeds if seed in whole[1].seeds]
    plus, minus = (arm(index, claims, own, name, seeds) for own, name in asked)
    if lacking := tuple(_lacking(index, claims, advice, (plus, minus))):
        return Difference(plus, minus, lacking, None, None)
    values = [[side.values[seed] for seed in seeds] for side in (plus, minus)]
    finding = contrasts.assess(
        [a - b for a, b in zip(*values, strict=True)],
        # One seed has no spread, and that of others is not this difference's.
        spread(index, claims, advice) if len(seeds) > 1 else Spread(None, 0),
        comparisons=comparisons,
        margin=claims.margins.get(advice.metric),
    )
    if advice.metric == STABLE_RATE and finding.se == 0:
        # The rates tried are few: on a grid, equal differences do not show that their mean is near.
        finding = replace(finding, p_equivalence=1.0, equivalent=False)
    return Difference(plus, minus, (), finding, contrasts.correlation(*values))


def spread(index: RecordIndex, claims: Claims, advice: Advice) -> Spread:
    """The spread of a value in an experiment, without the effects of the arms and of the seeds.

    It is pooled over the rows of each recipe and backbone that were trained with all of the experiment's
    own seeds, did not fail and have learnt. Rows of the very same training runs count once. There is no
    pool for a difference between two measurements of the same networks.
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
    return contrasts.residual_spread([list(group.values()) for group in groups.values()])


def _candidates(index: RecordIndex, advice: Advice) -> Iterator[tuple[str, str]]:
    """The arms of an experiment that can have the metric, each with the name of its group."""
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
    """The rows of an arm that lack records, by the seeds that they lack."""
    rows: dict[tuple[int, ...], list[str]] = {}
    for row in own.rows:
        if lost := tuple(seed for seed in own.seeds if seed not in row.records):
            rows.setdefault(lost, []).append(str(row.row))
    return rows


def failed(own: Arm, advice: Advice) -> list[str]:
    """The cells of an arm that failed, with their status; of learning rates, divergence is a result."""
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
    for by_seeds, names in lost.items():
        yield f"no record of {', '.join(dict.fromkeys(names))} for {seed_list(by_seeds)}"
    rows_of = [row for own in arms for row in own.rows]
    tuned = index.params.experiments[advice.experiment].learning_rates == "tuned"
    untuned = dict.fromkeys(str(row.row) for row in rows_of if tuned and row.rate is None)
    if untuned:
        yield f"no learning rate was tuned for {', '.join(untuned)}"
    if lost or untuned:
        return
    if ended := dict.fromkeys(cell for own in arms for cell in failed(own, advice)):
        cells = len({str(row.row) for row in rows_of}) * len(seeds)
        yield f"{len(ended)} of {cells} cells failed: {', '.join(ended)}"
        return
    rates = advice.metric == STABLE_RATE
    if not rates and (null := dict.fromkeys(line for own in arms for line in _null(own))):
        yield from null
        return
    bars = [bar(index, claims, advice.experiment, own.rows[0].row.backbone) for own in arms]
    if without := dict.fromkeys(control.row for control in bars if control.least is None):
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
