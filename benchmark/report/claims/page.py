"""The page of verdicts: a summary, and for each claim what its verdict rests on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmark.analysis import power
from benchmark.analysis.claims.arms import Arm
from benchmark.analysis.claims.diagnostics import Speed
from benchmark.analysis.claims.differences import Difference, seed_list
from benchmark.analysis.claims.judge import Judged
from benchmark.analysis.claims.literature import Library
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Claims
from benchmark.analysis.ranks import Ranks
from benchmark.config.overrides import flags
from benchmark.config.schema import Params
from benchmark.report.claims import formatting
from benchmark.report.claims.formatting import METRICS, amount, interval, size
from benchmark.report.claims.ranking import RANKS_FIGURE
from benchmark.report.markdown import NONE, escape, render
from benchmark.results.origins import MARKS

Cells = list[str]
"""A line of a table, in Markdown."""


def markdown(
    claims: Claims,
    params: Params,
    verdicts: Sequence[Judged],
    library: Library,
    compared: Mapping[str, Mapping[str, str]],
    ranks: Ranks | None = None,
) -> str:
    """The page; `compared` has for each claim the words of published results, by this track."""
    return render(
        "claims.md.j2",
        where=formatting.on_track(params.track),
        track=params.track,
        title=params.title,
        overrides=flags(params.overrides),
        claims=claims,
        summary=[_summary(judged) for judged in verdicts],
        verdicts=[(judged, _evidence(judged)) for judged in verdicts],
        entries=library.entries,
        compared=compared,
        ranks=ranks,
        ranks_figure=RANKS_FIGURE,
        METRICS=METRICS,
        amount=amount,
        chance=formatting.chance,
        interval=interval,
        needed=lambda seeds: f"more than {power.MOST}" if seeds is None else seeds,
        rate=_rate,
        reached=_reached,
        size=size,
        unit_of=lambda advice: escape(formatting.unit(advice)),
        whole=formatting.whole,
    )


def _summary(judged: Judged) -> Cells:
    claim, finding = judged.claim, judged.difference and judged.difference.finding
    shown = [NONE] * 3
    if claim.advice and finding:
        metric, unit = claim.advice.metric, escape(formatting.unit(claim.advice))
        least = "at least " if judged.at_least else ""
        shown[:2] = f"{least}{interval(finding, metric)} {unit}", str(finding.n)
        if finding.detectable:
            shown[2] = f"{size(finding.detectable, metric)} {unit}"
    return [
        f"[{escape(judged.name)}](#{judged.name.lower()}) {escape(claim.title)}",
        claim.description.verdict if claim.description else NONE,
        f"**{judged.verdict}**" if judged.verdict else NONE,
        *shown,
    ]


def _evidence(judged: Judged) -> dict[str, Any] | None:
    """The arms, tables and records of the difference that decides a claim."""
    advice, primary = judged.claim.advice, judged.difference
    if advice is None or primary is None:
        return None
    arms = list({own.name: own for own in primary.arms}.values())
    marks = [marks for own in arms for row in own.rows for marks in row.marks.values()]
    counts = {mark: sum(mark in one for one in marks) for mark in MARKS}
    rates = primary.finding and advice.metric == STABLE_RATE
    return {
        "pairs": list(_pairs(primary, advice)),
        "arms": arms,
        "secondary": list(_secondary(judged, advice)),
        "apart": _apart(primary.plus) if rates else None,
        "cells": [line for own in arms for line in _cells(own)],
        "records": len(marks),
        "flaws": [f"{count} **{mark}** ({MARKS[mark]})" for mark, count in counts.items() if count],
    }


def _pairs(primary: Difference, advice: Advice) -> Iterator[Cells]:
    """The values by seed, and their differences; nothing without an estimate."""
    if primary.finding is None:
        return
    for own in primary.arms:
        values = [own.values[seed] for seed in primary.seeds]
        of = f", {METRICS[own.metric]}" if advice.minus_metric else ""
        yield [
            f"`{own.name}`{of}",
            *(size(value, advice.metric) for value in (*values, fmean(values))),
        ]
    gaps = [pair.difference for pair in primary.pairs if pair.difference is not None]
    shown = (amount(gap, advice.metric) for gap in (*gaps, primary.finding.estimate))
    yield ["difference", *shown]


def _rate(own: Arm) -> str:
    """The learning rate of an arm in the table of arms."""
    if not own.values:
        return NONE
    if own.metric == STABLE_RATE:
        return "the highest tried is stable for a seed" if own.at_edge else "within those tried"
    if own.rate is None:
        return "the recipe's"
    return f"{own.rate:g}" + (", at the edge of those tried" if own.at_edge else "")


def _secondary(judged: Judged, advice: Advice) -> Iterator[Cells]:
    others: list[tuple[str, Difference | None, str]] = []
    if judged.plain:
        others.append(("The same with running statistics", judged.plain, "knn"))
    if judged.confirmation:
        others.append(
            ("The difference that must have the same sign", judged.confirmation, advice.metric)
        )
    others += [(s.entry.text, s.difference, advice.metric) for s in judged.secondary]
    for text, other, metric in others:
        if other is None:
            yield [escape(text), NONE, NONE, "not on this track", NONE]
            continue
        shown, n = "; ".join(map(escape, other.lacking[:1])), NONE
        if other.finding:
            shown = f"{interval(other.finding, metric)} {escape(formatting.unit(advice))}"
            n = str(other.finding.n)
        yield [escape(text), f"`{other.plus.name}`", f"`{other.minus.name}`", shown, n]


def _apart(own: Arm) -> float:
    """The widest step between the rates of an arm that has every record, in decades."""
    first = own.seeds[0]
    rates = sorted(row.records[first].record.cell.recipe.learning_rate for row in own.rows)
    return max(math.log10(b / a) for a, b in itertools.pairwise(rates))


def _cells(own: Arm) -> Iterator[str]:
    for row in own.rows:
        known = [f"s{s} `{row.records[s].checksum[:12]}`" for s in own.seeds if s in row.records]
        lost = [seed for seed in own.seeds if seed not in row.records]
        parts = [", ".join(known)] if known else []
        parts += [f"no record of {seed_list(lost)}"] if lost else []
        yield f"`{row.name}`: {'; '.join(parts)}"


def _reached(speed: Speed) -> str:
    """The images until half way: the range over the seeds."""
    if not speed.images:
        return NONE
    low, high = min(speed.images), max(speed.images)
    least = "at most " if speed.at_most else ""
    return f"{least}{low:.0f}" + (f" to {high:.0f}" if high > low else "")
