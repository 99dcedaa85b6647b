"""The leaderboard of an experiment: a row per method, backbone and scheme, built from its records.

A failure is a result: a cell that diverged or ran out of memory has no accuracy, is counted, and
ranks its row behind every row whose seeds all finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from benchmark.analysis import gate, statistics
from benchmark.analysis.balance import imbalance
from benchmark.analysis.statistics import Estimate, Measured, Spread
from benchmark.components.facts import PIXELS
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.planning import plan, rate_table, sizes
from benchmark.planning.cell import FINAL, Row
from benchmark.planning.configuration import ranking_key
from benchmark.results.metrics import RANKING
from benchmark.results.origins import Origin
from benchmark.results.published import Published
from benchmark.results.rows import RecordIndex, RowRecords

CONTROLS = ("supervised", *gate.STARTS, "raw-pixels")
"""What the methods are compared with, in the order of their rows below the methods."""

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
    optional: bool = False
    """Whether a backbone without values has no such column on the page."""
    legend: str = ""
    """What the page says of it, as Markdown; empty if the page's template does."""


@dataclass(frozen=True)
class Setting:
    """A learning rate and weight decay, with their score in the sweep."""

    rate: Annotated[float, Field(serialization_alias="learning_rate")]
    weight_decay: float
    validation: Measured | None
    """Validation accuracy in 0..1; null if no sweep scored this setting."""


@dataclass(frozen=True)
class Rates:
    """The learning rates of a trained row."""

    tuned: Setting | None
    """What its cells were trained with; null if the experiment keeps the recipe's rate."""
    default: Setting
    at_edge: bool
    """Whether the best rate was still the lowest or highest tried, or none scored at all."""


@dataclass(frozen=True)
class Cost:
    """What one cell of a row takes, without anything that depends on the machine."""

    parameters: int | None
    """Of the backbone."""
    images: int
    """Training images, repetitions counted and views not."""
    tflop: Measured | None
    """10¹² floating-point operations of one training run; null if unknown or if none finished."""


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
    """Null if unknown."""
    marks: tuple[str, ...]
    """The flaws of its provenance, keys of `origins.MARKS`."""
    accuracy: float | None
    """The metric that ranks rows; null if it has no finite value."""


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

    row: Row
    method: str
    """The method of the row's recipe, which may have another name."""
    title: str
    """The name of its method that figures show."""
    seeds: tuple[int, ...]
    statuses: tuple[str, ...]
    """The status of each seed."""
    estimates: Mapping[str, Estimate | None]
    """By metric name, over the seeds that have a value; None if none has one."""
    complete: bool
    """Whether every seed has a kNN accuracy; other rows rank behind these."""
    control: bool
    rates: Rates | None
    cost: Cost
    penalty_at_edge: bool
    """Whether a seed's linear probe chose the weakest or the strongest penalty."""
    environments: tuple[int, ...]
    """Indices into the table's environments."""
    updates: Mapping[str, float | None]
    """By section: the median over steps of the relative update ‖Δw‖ / ‖w‖, mean over seeds."""
    collapse: Mapping[str, float | None]
    """By section: √d · embedding std, mean over seeds; about 1 if spread evenly, 0 if collapsed."""
    records: tuple[Run, ...]
    """In the order of the seeds."""
    rank: int | None = None
    """Within the backbone, from 1; null for controls and for rows that have learnt nothing."""
    learnt: bool | None = None
    """Whether it is better than raw pixels and untrained backbones, see `gate`; null if the
    experiment lacks one of these."""
    best: bool = False
    """Whether it is the best of several schemes of its method and backbone, of those that learnt."""
    tied: bool = False
    """Whether it is the best one or cannot be told apart from it: their difference is within its
    interval, or a better learning rate of this one may be beyond those tried."""

    @property
    def status(self) -> str:
        """The worst status of its seeds."""
        return max(self.statuses, key=STATUSES.index)

    @property
    def counts(self) -> dict[str, int]:
        """The number of seeds with each status, the best first, e.g. `{"done": 1, "diverged": 1}`."""
        return dict(Counter(sorted(self.statuses, key=STATUSES.index)))


@dataclass(frozen=True)
class Table:
    """An experiment's leaderboard."""

    track: str
    title: str
    experiment: str
    dataset: str
    """Checksum of the images."""
    images: int | None
    """Images of the training split; null if that is a share of images that have not been built."""
    largest_class: float | None
    """Share of the largest class of the test split; null if the classes are of equal size."""
    neighbours: tuple[int, int]
    metrics: tuple[Metric, ...]
    transfer: tuple[str, ...]
    """Other tracks whose images are embedded."""
    backbones: tuple[str, ...]
    """Those with a table of their own."""
    schemes: tuple[str, ...]
    entries: tuple[Entry, ...]
    """By backbone: the ranked rows, then its controls. Controls without a backbone are last."""
    pools: tuple[Pool, ...]
    environments: tuple[Mapping[str, Any], ...]
    overrides: Mapping[str, Any]
    """The values that `--set` set when the table was made."""
    sweep_seeds: tuple[int, ...] = ()
    """Seeds of the trials that tuned its rates, if they are not the track's."""

    def of(self, backbone: str) -> list[Entry]:
        """A backbone's rows, ranked, with every control that belongs below them."""
        return [e for e in self.entries if e.row.backbone in (backbone, PIXELS)]


BALANCED = Metric("knn_balanced", "", "kNN, balanced")
"""Computed from the images that a record's `correct` lists, where the classes differ in size."""


def metrics(params: Params) -> tuple[Metric, ...]:
    """The table's columns of accuracies; the first one ranks."""
    near, far = params.evaluation.knn_k
    return (
        Metric(RANKING, ranking_key(params.evaluation.knn_k), "kNN"),
        Metric("knn", f"pooled.knn{near}", "kNN, running"),
        Metric(f"knn{far}", f"pooled_reestimated.knn{far}", f"kNN-{far}"),
        Metric("linear", "pooled_reestimated.linear", "linear"),
        Metric("class_token", f"class_token_reestimated.knn{near}", "class token", optional=True),
        *_few_labels(params),
        *_finetuned(params),
        *(
            Metric(f"transfer_{track}_{name}", f"transfer.{track}.{key}", f"{track}, {title}")
            for track in params.evaluation.transfer
            for name, key, title in (("knn", f"knn{near}", "kNN"), ("linear", "linear", "linear"))
        ),
    )


def _finetuned(params: Params) -> Iterator[Metric]:
    """Accuracies after fine-tuning: on all labels, and on each share of them that a backbone has."""
    recipes = params.evaluation.finetune.values()
    if recipes:
        yield Metric("finetune", "finetune.accuracy", "fine-tuned", optional=True)
    for share in sorted({few.share for recipe in recipes for few in recipe.labels}, reverse=True):
        name = f"labels_{share:g}"
        yield Metric(
            f"finetune_{name}", f"finetune.{name}.accuracy", f"fine-tuned, {100 * share:g} %",
            optional=True,
        )  # fmt: skip


def _few_labels(params: Params) -> Iterator[Metric]:
    """The columns of `evaluation.few_labels`, if the track asks for them."""
    legend = (
        "**linear, … %** and **kNN, … %** are the linear probe and kNN with the labels of that share of "
        "the training images, at least one of each class; the images are the same for all rows."
    )
    for share in params.evaluation.few_labels:
        name, title = f"few_labels_{share:g}", f"{100 * share:g} %"
        for kind, key in (("linear", "linear"), ("kNN", f"knn{params.evaluation.knn_k[0]}")):
            full = f"pooled_reestimated.{name}.{key}"
            yield Metric(f"{name}_{kind.lower()}", full, f"{kind}, {title}", legend=legend)


def build(root: Path, params: Params, experiment: str) -> Table:
    """The table of an experiment from its published records, rates and their provenance.

    Raises UserError if a record is missing, or of another configuration than the params ask for.
    """
    rows = _complete(root, params, experiment)
    columns = metrics(params)
    values = {
        (own.row, metric.name): _values(own, metric.key) for own in rows for metric in columns
    }
    records_of = {own.row: list(own.records.values()) for own in rows}
    every = [p.record for records in records_of.values() for p in records]
    uneven = imbalance(root, params, every[0].dataset)
    if uneven:
        first, *others = columns
        columns = (first, BALANCED, *others)
        for row, records in records_of.items():
            lists = (p.record.result.correct for p in records if p.record.status == "done")
            values[row, BALANCED.name] = [uneven.accuracy(one) for one in lists if one]
    pools = list(_pools(params, rows, columns, values))
    spreads: dict[tuple[str, str, bool], Spread] = {
        (pool.metric, pool.backbone, pool.trained): pool for pool in pools
    }
    # Raw pixels do not depend on a seed.
    spreads |= {(metric.name, PIXELS, False): Spread(0.0, 1) for metric in columns}
    distinct = {canonical_json.compact(r.environment): r.environment for r in every}
    environments = list(distinct.values())
    entries = []
    for own in rows:
        row, records, marks = own.row, records_of[own.row], own.marks
        trained = plan.is_trained(params, row.method)
        method = plan.component(params, row.method)
        # A recipe that departs from its method is shown under its own name.
        title = plan.facts(params, row.method)["title"] if method == row.method else row.method
        entries.append(
            Entry(
                row=row,
                method=method,
                title=str(title),
                seeds=own.seeds,
                statuses=tuple(p.record.status for p in records),
                estimates={
                    metric.name: statistics.estimate(
                        values[row, metric.name], spreads[metric.name, row.backbone, trained]
                    )
                    for metric in columns
                },
                complete=len(values[row, RANKING]) == len(records),
                control=method in CONTROLS,
                rates=_rates(params, experiment, own) if trained else None,
                cost=_cost(records),
                penalty_at_edge=any(
                    bool(p.record.result.metrics.get("pooled_reestimated.linear.penalty_at_edge"))
                    for p in records
                ),
                environments=tuple(
                    sorted({environments.index(p.record.environment) for p in records})
                ),
                updates=_by_section(
                    records,
                    lambda measured: measured.get("stability", {}).get("relative_update", {}),
                ),
                collapse=_by_section(records, _collapse),
                records=tuple(
                    Run(
                        p,
                        own.origins[p.seed],
                        marks[p.seed],
                        p.record.result.metrics.get(columns[0].key),
                    )
                    for p in records
                ),
            )
        )
    return Table(
        track=params.track,
        title=params.title,
        experiment=experiment,
        dataset=every[0].dataset,
        images=sizes.training_images(root, params),
        largest_class=uneven.largest if uneven else None,
        neighbours=params.evaluation.knn_k,
        metrics=columns,
        transfer=tuple(params.evaluation.transfer),
        backbones=params.experiments[experiment].every("backbones"),
        schemes=params.experiments[experiment].every("schemes"),
        entries=tuple(_ordered(entries, spreads)),
        pools=tuple(pools),
        environments=tuple(environments),
        overrides=params.overrides,
        sweep_seeds=_sweep_seeds(root, params, experiment),
    )


def _sweep_seeds(root: Path, params: Params, experiment: str) -> tuple[int, ...]:
    """The seeds of the experiment's table of rates, if they are not the track's."""
    if params.experiments[experiment].learning_rates == "default":
        return ()
    table = rate_table.read(root, params, experiment)
    return table.seeds if table and table.seeds != params.sweep.seeds else ()


def _complete(root: Path, params: Params, experiment: str) -> list[RowRecords]:
    """The rows of an experiment; raises UserError if one lacks the record of a seed."""
    rows = list(RecordIndex(root, params, tables=False).rows(experiment).values())
    for own in rows:
        if own.untuned:
            raise own.untuned
    if missing := [f"{own.row}-s{seed}" for own in rows for seed in own.missing]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"results/{params.track}/records/{experiment} has no record of {missing[0]}{more}: "
            f"run `{plan.train_command(params.track, experiment, (), params.overrides)}`"
        )
    return rows


def _values(own: RowRecords, key: str) -> list[float]:
    """A metric's values; a cell that failed, or whose embeddings are not finite, has none."""
    done = (p.record for p in own.records.values() if p.record.status == "done")
    numbers = (record.result.metrics.get(key) for record in done)
    return [float(number) for number in numbers if number is not None]


def _pools(
    params: Params,
    rows: Sequence[RowRecords],
    columns: Sequence[Metric],
    values: Mapping[tuple[Row, str], Sequence[float]],
) -> Iterator[Pool]:
    """A spread for every metric, backbone, and trained or untrained rows.

    Only rows with a value for every seed count: the seeds that survive in a row that also fails are
    a selection. Rows of the very same training runs count once.
    """
    distinct: dict[tuple[str, ...], RowRecords] = {}
    for own in rows:
        if own.row.backbone != PIXELS:
            fingerprints = tuple(p.record.fingerprint for p in own.records.values())
            distinct.setdefault(fingerprints, own)
    groups: dict[tuple[str, bool], list[RowRecords]] = {}
    for own in distinct.values():
        kind = own.row.backbone, plan.is_trained(params, own.row.method)
        groups.setdefault(kind, []).append(own)
    for name in (metric.name for metric in columns):
        for (backbone, trained), group in groups.items():
            spread = statistics.pooled_spread(
                values[own.row, name]
                for own in group
                if len(values[own.row, name]) == len(own.seeds)
            )
            yield Pool(spread.sd, spread.df, name, backbone, trained)


def _rates(params: Params, experiment: str, own: RowRecords) -> Rates:
    if params.experiments[experiment].learning_rates != "tuned":
        return Rates(None, Setting(*plan.default_setting(params, own.row), None), False)
    tuning = own.tuning
    if tuning is None:
        raise ValueError(f"{own.name} has no tuned learning rate")
    return Rates(
        Setting(tuning.learning_rate, tuning.weight_decay, tuning.validation),
        Setting(
            tuning.default_learning_rate, tuning.default_weight_decay, tuning.default_validation
        ),
        tuning.at_edge,
    )


def _cost(records: Sequence[Published]) -> Cost:
    # Seeds of a row cost the same, except where a training run ended early.
    results = [p.record.result for p in records]
    size = next((r.parameters for r in results if r.parameters is not None), None)
    training = records[0].record.cell.training
    if training is None:
        return Cost(size, 0, 0.0)
    operations = (
        p.record.result.flops_per_step * p.record.result.steps / 1e12
        for p in records
        if p.record.status == "done" and p.record.result.flops_per_step is not None
    )
    return Cost(size, training.images_seen, next(operations, None))


def _collapse(diagnostics: Mapping[str, Any]) -> dict[str, float | None]:
    """√d · embedding std of each section; null if the embeddings are not finite."""
    return {
        name: std and std * measures["width"] ** 0.5
        for name, measures in diagnostics.get("sections", {}).items()
        for std in [measures["embedding_std"]]
    }


def _by_section(
    records: Sequence[Published],
    measured: Callable[[Mapping[str, Any]], Mapping[str, float | None]],
) -> dict[str, float | None]:
    """The mean over records of what is measured of each section; null if no record has a value."""
    values: dict[str, list[float]] = {}
    for entry in records:
        for section, value in measured(entry.record.result.diagnostics).items():
            values.setdefault(section, []).extend([] if value is None else [value])
    return {name: fmean(known) if known else None for name, known in values.items()}


def _mean(entry: Entry) -> float:
    estimate = entry.estimates[RANKING]
    return -1.0 if estimate is None else estimate.mean


def _ordered(
    entries: Sequence[Entry], spreads: Mapping[tuple[str, str, bool], Spread]
) -> Iterator[Entry]:
    """Ranks the entries within their backbone and marks each method's best schemes.

    A row that has learnt nothing has no rank and is no best scheme: it is below those that have.
    """
    known = [entry for entry in entries if entry.estimates[RANKING]]
    pixels = next((_mean(entry) for entry in known if entry.method == "raw-pixels"), None)
    untrained: dict[str, list[float]] = {}
    for entry in known:
        if entry.method in gate.STARTS:
            untrained.setdefault(entry.row.backbone, []).append(_mean(entry))
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        least = gate.least(untrained.get(entry.row.backbone, []), pixels)
        learnt = None if least is None else _mean(entry) >= least
        groups.setdefault(entry.row.backbone, []).append(replace(entry, learnt=learnt))
    # Rows without a backbone are below all others, wherever the experiment lists them.
    for backbone in sorted(groups, key=lambda name: name == PIXELS):
        schemes = Counter(entry.row.method for entry in groups[backbone])
        best: dict[str, Entry] = {}
        # Sorting is stable: equals keep the order of the experiment's lists.
        for place, entry in enumerate(sorted(groups[backbone], key=_place), 1):
            top = best.setdefault(entry.row.method, entry)
            able = entry.complete and entry.learnt is not False and schemes[entry.row.method] > 1
            spread = spreads[RANKING, backbone, entry.rates is not None]
            yield replace(
                entry,
                rank=None if entry.control or entry.learnt is False else place,
                best=able and entry is top,
                tied=able and _is_tied(entry, top, spread),
            )


def _place(entry: Entry) -> tuple[int, bool, bool, float]:
    """Sorts methods by what they have reached, then the controls."""
    control = 1 + CONTROLS.index(entry.method) if entry.control else 0
    below = entry.learnt is False and not entry.control
    return control, below, not entry.complete, -_mean(entry)


def _is_tied(entry: Entry, best: Entry, spread: Spread) -> bool:
    half = statistics.half_width(spread, len(best.seeds), len(entry.seeds))
    # A row whose best rate was at an edge may be better than it looks.
    at_edge = entry.rates is not None and entry.rates.at_edge
    return at_edge or half is None or _mean(best) - _mean(entry) <= half
