"""The records nearest to a method, a backbone and a batch, and how their schemes compare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmark.analysis.claims.arms import ACCURACY, bar
from benchmark.analysis.claims.diagnostics import swap_excess
from benchmark.analysis.claims.schema import Claims
from benchmark.analysis.statistics import Spread, half_width, pooled_spread
from benchmark.config.schema import MethodParams, Params
from benchmark.planning import plan
from benchmark.planning.cell import Row
from benchmark.results.rows import RecordIndex, RowRecords


@dataclass(frozen=True)
class Question:
    """The method, backbone and batch that a scheme is wanted for."""

    recipe: str
    """A recipe of the track, or a method."""
    method: str
    backbone: str
    batch: int


@dataclass(frozen=True)
class Evidence:
    """The schemes of one recipe and backbone in one experiment."""

    experiment: str
    recipe: str
    backbone: str
    batch: int
    differences: tuple[str, ...]
    """How the recipe differs from the one asked about, apart from the batch."""
    tuned: bool
    """Whether each scheme has a learning rate of its own."""
    complete: tuple[RowRecords, ...]
    """The rows that have a record of every seed; at least one."""
    missing: tuple[str, ...]
    """The schemes of the other rows."""
    accuracy: Spread
    """Of accuracies within rows, pooled over the backbone's trained rows in the experiment."""
    excess: Spread
    """The same for the swap excess."""


def batch_of(params: Params, recipe: str) -> int:
    """The batch size of a recipe; the track's for a method without a recipe."""
    entry = params.methods.get(recipe)
    own = entry.batch_size if isinstance(entry, MethodParams) else None
    return own or params.training.batch_size


def gather(
    index: RecordIndex, wanted: Callable[[Row], bool], asked: Question
) -> tuple[list[Evidence], list[str]]:
    """The evidence in the wanted rows, nearest to the question first, and the experiments without any.

    Only trained rows count. Raises UserError if a record is of another configuration.
    """
    params = index.params
    gathered: list[Evidence] = []
    skipped = []
    for name, experiment in params.experiments.items():
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in plan.rows(params, name):
            if plan.is_trained(params, row.method) and wanted(row):
                groups.setdefault((row.method, row.backbone), []).append(row)
        if not groups:
            continue
        rows, before = index.rows(name), len(gathered)
        tuned = experiment.learning_rates == "tuned"
        for (recipe, backbone), group in groups.items():
            complete = tuple(rows[row] for row in group if not rows[row].missing)
            if not complete:
                continue
            trained = [
                own
                for row, own in rows.items()
                if row.backbone == backbone and plan.is_trained(params, row.method)
            ]
            gathered.append(
                Evidence(
                    experiment=name,
                    recipe=recipe,
                    backbone=backbone,
                    batch=batch_of(params, recipe),
                    differences=tuple(_differences(params, asked, recipe, tuned)),
                    tuned=tuned,
                    complete=complete,
                    missing=tuple(row.scheme for row in group if rows[row].missing),
                    accuracy=_spread(trained, lambda own: index.values(own, ACCURACY)),
                    excess=_spread(trained, swap_excess),
                )
            )
        if len(gathered) == before:
            skipped.append(name)
    return sorted(gathered, key=lambda evidence: _distance(evidence, asked)), skipped


def _distance(evidence: Evidence, asked: Question) -> tuple[bool, float, int, bool, int, int]:
    """Evidence with several schemes is nearest; then batch, recipe, rates, schemes and seeds count."""
    rows = evidence.complete
    return (
        len(rows) < 2,
        abs(math.log(evidence.batch / asked.batch)),
        len(evidence.differences),
        not evidence.tuned,
        -len(rows),
        -sum(len(own.seeds) for own in rows),
    )


def _differences(params: Params, asked: Question, recipe: str, tuned: bool) -> Iterator[str]:
    own, base = params.methods[recipe], params.methods.get(asked.recipe)
    if recipe == asked.recipe or not isinstance(own, MethodParams):
        return
    if not isinstance(base, MethodParams):
        yield f"recipe {recipe}"
        return

    known = params.backbones.get(asked.backbone)
    usual = known.optimizer if known else None

    def flat(entry: MethodParams) -> dict[str, Any]:
        lengths, backbone = entry.images_seen, asked.backbone
        both = {
            "images": lengths.get(backbone) if isinstance(lengths, dict) else lengths,
            "views": " and ".join(entry.views),
            **entry.options,
            "optimizer": entry.optimizer.get(backbone, usual),
            "warm-up": _own(entry.warmup_fraction, params.training.warmup_fraction),
            "schedule": entry.schedule.model_dump(exclude_defaults=True) or "cosine",
            "rate of vectors": entry.vector_rate,
            "weight decay": entry.weight_decay.get(backbone),
            "weight decay on": _own(entry.weight_decay_on, params.training.weight_decay_on),
        }
        return both if tuned else {**both, "learning rate": entry.learning_rate.get(backbone)}

    theirs = flat(base)
    for key, value in flat(own).items():
        if value != theirs.get(key):
            yield f"{key} {value} instead of {theirs.get(key)}"


def _own(value: Any, tracks: Any) -> Any:
    """A recipe's value, or the track's if it has none."""
    return tracks if value is None else value


def _spread(rows: Sequence[RowRecords], of: Callable[[RowRecords], Mapping[int, float]]) -> Spread:
    """Pools rows with a value for every seed: the seeds that survive others are a selection."""
    values = ((own, of(own)) for own in rows)
    return pooled_spread(list(v.values()) for own, v in values if len(v) == len(own.seeds))


def standing(
    index: RecordIndex, claims: Claims, evidence: Evidence
) -> tuple[dict[str, float], dict[str, str]]:
    """The mean accuracies, in 0..1, of the schemes tied for best, and the reasons to avoid the others.

    A scheme is lower if its difference from the best exceeds t(.975, df) · s · √(1/n + 1/m), with the
    pooled spread s: 95 % each, unadjusted. The best is one of those that finished on every seed,
    learnt (as the claims define it) and do not leak. A scheme leaks if its swap excess is above the
    interval around zero, unless the keys were shuffled: then training could not exploit the groups.
    """
    least = bar(index, claims, evidence.experiment, evidence.backbone)
    why: dict[str, str] = {}
    means: dict[str, float] = {}
    for own in evidence.complete:
        scheme, values = own.row.scheme, list(index.values(own, ACCURACY).values())
        means[scheme] = fmean(values) if values else -1.0
        excess = list(swap_excess(own).values())
        half = half_width(evidence.excess, len(excess)) if excess else None
        if len(values) < len(own.seeds):
            counts = Counter(own.failed.values())
            ends = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
            why[scheme] = f"failed: {ends or 'no accuracy'} of {len(own.seeds)}"
        elif least.least is not None and means[scheme] < least.least:
            shown = f"{_percent(means[scheme])}, {least.row} {_percent(least.better or 0.0)}"
            why[scheme] = f"did not learn: {shown}"
        elif half is not None and fmean(excess) > half and not _shuffles(own):
            gained = f"{_percent(fmean(excess))} ± {_percent(half)} points"
            why[scheme] = f"leaks: training raised its swap gap by {gained}"
    ordered = sorted(means, key=lambda scheme: (-means[scheme], scheme))
    good = [scheme for scheme in ordered if scheme not in why]
    seeds = {own.row.scheme: len(own.seeds) for own in evidence.complete}
    for scheme in good:
        gap = means[good[0]] - means[scheme]
        half = half_width(evidence.accuracy, seeds[good[0]], seeds[scheme])
        if half is not None and gap > half:
            why[scheme] = f"{_percent(gap)} ± {_percent(half)} points lower"
    tied = {scheme: means[scheme] for scheme in ordered if scheme not in why}
    return tied, {scheme: why[scheme] for scheme in ordered if scheme in why}


def _shuffles(own: RowRecords) -> bool:
    """Whether the row's teacher shuffles its batches."""
    training = next(iter(own.records.values())).record.cell.training
    return bool(training and training.teacher and training.teacher.shuffle)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
