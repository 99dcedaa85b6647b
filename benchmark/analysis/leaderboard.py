"""The leaderboard of an experiment: a row per method, backbone and scheme, built from its records.

A failure is a result: a cell that diverged or ran out of memory has no accuracy, is counted, and
puts its row behind every row whose seeds all finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from benchmark.analysis import gate, statistics
from benchmark.analysis.statistics import Estimate, Measured, Spread
from benchmark.components.facts import PIXELS
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.planning.cell import FINAL, Row
from benchmark.planning.configuration import ranking_key
from benchmark.results import origins as provenance
from benchmark.results.metrics import RANKING
from benchmark.results.origins import Origin
from benchmark.results.published import Published
from benchmark.results.rows import RecordIndex, RowRecords

CONTROLS = ("supervised", "untrained", "raw-pixels")
"""What the methods are held against, in the order in which they stand below them."""


STATUSES = (*FINAL, "crashed")
"""From best to worst."""


@dataclass(frozen=True)
class Metric:
    """A column of accuracies."""

    name: str
    """Its name in the JSON and CSV files."""
    key: str
    """Its name in a record."""
    title: str


@dataclass(frozen=True)
class Setting:
    """A learning rate and weight decay with what the sweep found for them."""

    rate: Annotated[float, Field(serialization_alias="learning_rate")]
    weight_decay: float
    validation: Measured | None
    """Validation accuracy in 0..1, null where no sweep scored this setting."""


@dataclass(frozen=True)
class Rates:
    """The learning rates of a trained row."""

    tuned: Setting | None
    """What its cells were trained with, null where the experiment keeps the recipe's rate."""
    default: Setting
    at_edge: bool
    """Whether the best rate was still the lowest or highest tried, or none scored at all."""


@dataclass(frozen=True)
class Cost:
    """What one cell of a row takes; nothing that depends on the machine."""

    parameters: int | None
    """Of the backbone."""
    images: int
    """Training images, repetitions counted and views not."""
    tflop: Measured | None
    """10¹² floating-point operations of a whole training; null if unknown or never finished."""


@dataclass(frozen=True)
class Pool(Spread):
    """The pooled spread of one metric over the rows of one backbone, trained or untrained."""

    metric: str
    backbone: str
    trained: bool


@dataclass(frozen=True)
class Run:
    """One seed of a row: its record and what made it."""

    published: Published
    origin: Origin | None
    """Null where nothing says."""
    accuracy: float | None
    """The metric that ranks, null where it has none."""

    @property
    def status(self) -> str:
        """How the training ended."""
        return self.published.record.status

    @property
    def marks(self) -> tuple[str, ...]:
        """The flaws of its provenance, keys of `origins.MARKS`."""
        return provenance.marks(self.origin, self.published)


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    row: Row
    method: str
    """The method of the row's recipe, which may have another name."""
    title: str
    """Of its method, for people."""
    seeds: tuple[int, ...]
    statuses: tuple[str, ...]
    """Of each seed."""
    estimates: Mapping[str, Estimate | None]
    """By metric name, over the seeds that have a value; None where none has."""
    complete: bool
    """Whether every seed has a kNN accuracy; other rows stand behind those."""
    control: bool
    rank: int | None
    """Within the backbone, from 1; null for controls and for rows that have learnt nothing."""
    learnt: bool | None
    """Whether it is better than raw pixels and untrained backbones, see `gate`; null where the
    experiment lacks one of these."""
    best: bool
    """Whether this is the best of several schemes of its method and backbone, of those that learnt."""
    tied: bool
    """Whether it is the best one or is not told apart from it: their difference is within its interval,
    or a better learning rate of this one may lie beyond those tried."""
    rates: Rates | None
    cost: Cost
    penalty_at_edge: bool
    """Whether a seed's linear probe chose the weakest or the strongest penalty."""
    environments: tuple[int, ...]
    """Places in the table's environments."""
    updates: Mapping[str, float | None]
    """By section the median relative update of the weights, ‖Δw‖ / ‖w‖ a step, the mean over seeds."""
    collapse: Mapping[str, float | None]
    """By section √d · embedding std, the mean over seeds: about 1 when spread evenly, 0 collapsed."""
    records: tuple[Run, ...]
    """In the order of the seeds."""

    @property
    def status(self) -> str:
        """The worst status of its seeds."""
        return max(self.statuses, key=_severity)

    @property
    def counts(self) -> dict[str, int]:
        """How many seeds came to each status, e.g. `{"done": 1, "diverged": 1}`."""
        found = sorted(set(self.statuses), key=lambda status: (_severity(status), status))
        return {status: self.statuses.count(status) for status in found}


@dataclass(frozen=True)
class Table:
    """An experiment's leaderboard."""

    track: str
    title: str
    experiment: str
    dataset: str
    """Checksum of the images."""
    neighbours: tuple[int, int]
    metrics: tuple[Metric, ...]
    backbones: tuple[str, ...]
    """Those with a table of their own."""
    schemes: tuple[str, ...]
    entries: tuple[Entry, ...]
    """Backbone by backbone, ranked, then its controls; last the controls without a backbone."""
    pools: tuple[Pool, ...]
    environments: tuple[Mapping[str, Any], ...]

    def of(self, backbone: str) -> list[Entry]:
        """A backbone's rows, ranked, with every control that belongs below them."""
        return [e for e in self.entries if e.row.backbone == backbone or is_fixed(e.row)]

    def missing_controls(self) -> list[str]:
        """The controls that the experiment does not have."""
        present = {entry.method for entry in self.entries}
        return [control for control in CONTROLS if control not in present]


def is_fixed(row: Row) -> bool:
    """Whether a row has no network, and so neither a backbone nor anything random."""
    return row.backbone == PIXELS


def metrics(params: Params) -> tuple[Metric, ...]:
    """The table's columns of accuracies; the first one ranks."""
    near, far = params.evaluation.knn_k
    return (
        Metric(RANKING, ranking_key(params.evaluation.knn_k), "kNN"),
        Metric("knn", f"pooled.knn{near}", "kNN, running"),
        Metric(f"knn{far}", f"pooled_reestimated.knn{far}", f"kNN-{far}"),
        Metric("linear", "pooled_reestimated.linear", "linear"),
        Metric("class_token", f"class_token_reestimated.knn{near}", "class token"),
    )


def build(root: Path, params: Params, experiment: str) -> Table:
    """The table of an experiment from its published records, rates and their provenance.

    Raises UserError where a cell that the params ask for is missing or was trained otherwise.
    """
    rows = _complete(root, params, experiment)
    columns = metrics(params)
    every = [p.record for own in rows for p in own.records.values()]
    distinct = {canonical_json.compact(r.environment): r.environment for r in every}
    environments = list(distinct.values())
    values = {
        (own.row, metric.name): _values(own, metric.key) for own in rows for metric in columns
    }
    pools = _pools(params, rows, columns, values)
    spreads = {(pool.metric, pool.backbone, pool.trained): pool for pool in pools}
    entries = []
    for own in rows:
        row, records = own.row, list(own.records.values())
        trained = plan.is_trained(params, row.method)
        method = plan.component(params, row.method)
        estimates = {}
        for metric in columns:
            numbers = values[row, metric.name]
            if is_fixed(row):
                estimates[metric.name] = statistics.exact(numbers)
            else:
                spread = spreads[metric.name, row.backbone, trained]
                estimates[metric.name] = statistics.estimate(numbers, spread)
        entries.append(
            Entry(
                row=row,
                method=method,
                title=_title(params, row),
                seeds=own.seeds,
                statuses=tuple(p.record.status for p in records),
                estimates=estimates,
                complete=len(values[row, columns[0].name]) == len(records),
                control=method in CONTROLS,
                rank=None,
                learnt=None,
                best=False,
                tied=False,
                rates=_rates(params, experiment, own) if trained else None,
                cost=_cost(records),
                penalty_at_edge=_penalty_at_edge(records),
                environments=tuple(
                    sorted({environments.index(p.record.environment) for p in records})
                ),
                updates=_updates(records),
                collapse=_collapse(records),
                records=tuple(
                    Run(p, own.origins[p.seed], p.record.result.metrics.get(columns[0].key))
                    for p in records
                ),
            )
        )
    return Table(
        track=params.track,
        title=params.title,
        experiment=experiment,
        dataset=every[0].dataset,
        neighbours=params.evaluation.knn_k,
        metrics=columns,
        backbones=params.experiments[experiment].every("backbones"),
        schemes=params.experiments[experiment].every("schemes"),
        entries=tuple(_ordered(entries, spreads)),
        pools=tuple(pools),
        environments=tuple(environments),
    )


def _complete(root: Path, params: Params, experiment: str) -> list[RowRecords]:
    """The rows of an experiment, each with the record of every seed; UserError where one lacks it."""
    rows = list(RecordIndex(root, params, tables=False).rows(experiment).values())
    for own in rows:
        if own.untuned:
            raise own.untuned
    if missing := [f"{own.row}-s{seed}" for own in rows for seed in own.missing]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"results/{params.track}/records/{experiment} has no record of {missing[0]}{more}: "
            f"run `{plan.train_command(params.track, experiment)}`"
        )
    return rows


def _title(params: Params, row: Row) -> str:
    """The method's title; a recipe that departs from the method's own is shown under its name."""
    own = plan.component(params, row.method) == row.method
    return str(plan.facts(params, row.method)["title"]) if own else row.method


def _values(own: RowRecords, key: str) -> list[float]:
    """A metric's values; a cell that failed, or whose embeddings are not finite, has none."""
    records = (p.record for p in own.records.values() if p.record.status == "done")
    found = [record.result.metrics.get(key) for record in records]
    return [float(value) for value in found if value is not None]


def _pools(
    params: Params,
    rows: Sequence[RowRecords],
    columns: Sequence[Metric],
    values: Mapping[tuple[Row, str], Sequence[float]],
) -> list[Pool]:
    """A spread for every metric, backbone, and trained or untrained rows.

    Only rows whose every seed finished with a value count: the seeds that survive in a row that
    also fails are a selection. Rows of the very same training runs count once.
    """
    distinct: dict[tuple[str, ...], RowRecords] = {}
    for own in rows:
        if not is_fixed(own.row):
            fingerprints = tuple(p.record.fingerprint for p in own.records.values())
            distinct.setdefault(fingerprints, own)
    groups: dict[tuple[str, bool], list[RowRecords]] = {}
    for own in distinct.values():
        kind = own.row.backbone, plan.is_trained(params, own.row.method)
        groups.setdefault(kind, []).append(own)
    pools = []
    for metric in columns:
        for (backbone, trained), group in groups.items():
            found = [(own, values[own.row, metric.name]) for own in group]
            complete = [numbers for own, numbers in found if len(numbers) == len(own.seeds)]
            spread = statistics.pool(complete)
            pools.append(Pool(spread.sd, spread.df, metric.name, backbone, trained))
    return pools


def _rates(params: Params, experiment: str, own: RowRecords) -> Rates:
    if params.experiments[experiment].learning_rates != "tuned":
        return Rates(None, Setting(*plan.default_setting(params, own.row), None), False)
    keys = ("learning_rate", "weight_decay", "validation")
    tuned, default = (Setting(*(own.tuning[f"{of}{k}"] for k in keys)) for of in ("", "default_"))
    return Rates(tuned, default, own.at_edge)


def _cost(records: Sequence[Published]) -> Cost:
    # Seeds of a row cost the same, except where a training ended early.
    sizes = [p.record.result.parameters for p in records if p.record.result.parameters is not None]
    size = sizes[0] if sizes else None
    training = records[0].record.cell.training
    if training is None:
        return Cost(size, 0, 0.0)
    operations = [
        p.record.result.flops_per_step * p.record.result.steps / 1e12
        for p in records
        if p.record.status == "done" and p.record.result.flops_per_step is not None
    ]
    return Cost(size, training.images_seen, operations[0] if operations else None)


def _penalty_at_edge(records: Sequence[Published]) -> bool:
    key = "pooled_reestimated.linear.penalty_at_edge"
    return any(bool(p.record.result.metrics.get(key)) for p in records)


def _collapse(records: Sequence[Published]) -> dict[str, float | None]:
    def spread(measures: Mapping[str, Any]) -> float | None:
        deviation = measures["embedding_std"]
        return None if deviation is None else deviation * measures["width"] ** 0.5

    return _by_section(
        {name: spread(measures) for name, measures in found.get("sections", {}).items()}
        for found in _diagnostics(records)
    )


def _updates(records: Sequence[Published]) -> dict[str, float | None]:
    found = _diagnostics(records)
    return _by_section(one.get("stability", {}).get("relative_update", {}) for one in found)


def _diagnostics(records: Sequence[Published]) -> list[Mapping[str, Any]]:
    """Those of each record, empty where it has none."""
    return [p.record.result.diagnostics for p in records]


def _by_section(measured: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean over records of each section's value, null where none has one."""
    values: dict[str, list[float]] = {}
    for found in measured:
        for section, value in found.items():
            values.setdefault(section, []).extend([] if value is None else [value])
    return {name: statistics.mean(known) if known else None for name, known in values.items()}


def _mean(entry: Entry) -> float:
    found = entry.estimates[RANKING]
    return -1.0 if found is None else found.mean


def _ordered(
    entries: Sequence[Entry], spreads: Mapping[tuple[str, str, bool], Pool]
) -> list[Entry]:
    """Ranks the entries within their backbone and marks each method's best schemes.

    What has learnt nothing has no rank and no best scheme: it stands below what has.
    """
    gated = [replace(entry, learnt=_learnt(entry, entries)) for entry in entries]
    marked = [_marked(entry, gated, spreads) for entry in gated]
    backbones = dict.fromkeys(e.row.backbone for e in marked)
    # A row without a backbone stands below all of them, wherever the experiment lists it.
    fixed = {e.row.backbone for e in marked if is_fixed(e.row)}
    ordered: list[Entry] = []
    for backbone in sorted(backbones, key=lambda backbone: backbone in fixed):
        own = [entry for entry in marked if entry.row.backbone == backbone]
        # Sorting is stable: equals keep the order of the experiment's lists.
        methods = sorted(
            (entry for entry in own if not entry.control),
            key=lambda entry: (entry.learnt is False, not entry.complete, -_mean(entry)),
        )
        ordered += [
            entry if entry.learnt is False else replace(entry, rank=place)
            for place, entry in enumerate(methods, 1)
        ]
        ordered += sorted(
            (entry for entry in own if entry.control),
            key=lambda e: (CONTROLS.index(e.method), not e.complete, -_mean(e)),
        )
    return ordered


def _learnt(entry: Entry, entries: Sequence[Entry]) -> bool | None:
    untrained = [
        other.estimates[RANKING]
        for other in entries
        if other.method == "untrained" and other.row.backbone == entry.row.backbone
    ]
    pixels = next((e.estimates[RANKING] for e in entries if e.method == "raw-pixels"), None)
    least = gate.least(
        [found.mean for found in untrained if found], pixels.mean if pixels else None
    )
    return None if least is None else _mean(entry) >= least


def _marked(
    entry: Entry, entries: Sequence[Entry], spreads: Mapping[tuple[str, str, bool], Pool]
) -> Entry:
    """The entry with what can be said of it among the schemes of its method and backbone."""
    own = (entry.row.method, entry.row.backbone)
    rivals = [other for other in entries if (other.row.method, other.row.backbone) == own]
    able = [other for other in rivals if other.complete and other.learnt is not False]
    if len(rivals) < 2 or entry not in able:
        return entry
    best = max(able, key=_mean)
    spread = spreads[RANKING, entry.row.backbone, bool(entry.rates)]
    apart = statistics.half_width(spread, len(best.seeds), len(entry.seeds))
    # A row whose best rate was at an edge may be better than it looks, so it is not told apart either.
    near = apart is None or _mean(best) - _mean(entry) <= apart
    near |= bool(entry.rates and entry.rates.at_edge)
    return replace(entry, best=best is entry, tied=near)


def _severity(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else len(STATUSES)
