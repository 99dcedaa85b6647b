"""What the published records advise for a method, a backbone and a batch, and its limits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from benchmark.analysis.claims import load
from benchmark.analysis.claims.schema import Claims
from benchmark.analysis.evidence import Evidence, Question, batch_of, gather, standing
from benchmark.analysis.leaderboard import CONTROLS
from benchmark.analysis.statistics import half_width
from benchmark.components import registry
from benchmark.components.facts import PIXELS
from benchmark.config.schema import MethodParams, Params
from benchmark.core.errors import UserError, unknown
from benchmark.core.wording import counted
from benchmark.planning import plan
from benchmark.planning.cell import Row
from benchmark.results.rows import RecordIndex

WIDTH = 96

ALSO = 3
"""The number of further experiments that are summarized, in a line each."""


def question(params: Params, method: str, backbone: str, batch: int | None) -> Question:
    """The question with its names checked; the default batch is the recipe's own.

    Raises UserError for a method or a backbone that neither the track nor the benchmark has.
    """
    methods = {*registry.catalogue("method"), *params.methods}
    if method not in methods:
        raise unknown("method", method, methods)
    backbones = {*registry.catalogue("backbone"), *params.backbones} - {PIXELS}
    if backbone not in backbones:
        raise unknown("backbone", backbone, backbones)
    if batch is not None and batch < 2:
        raise UserError(f"--batch is {batch}, expected a number from 2")
    component = plan.component(params, method) if method in params.methods else method
    return Question(method, component, backbone, batch or batch_of(params, method))


def advise(index: RecordIndex, method: str, backbone: str, batch: int | None = None) -> list[str]:
    """The advice in lines of text: schemes tied for best, schemes to avoid, the evidence, its limits.

    Schemes are compared within the recipe and experiment nearest to the question; other experiments
    are summarized. Raises UserError for unknown names, and for a record of another configuration than
    the params ask for.
    """
    params = index.params
    asked = question(params, method, backbone, batch)
    title = f"{method} on {backbone}, batch {asked.batch}, track {params.track}"
    if not registry.facts("method", asked.method)["views"]:
        return [title, f"{method} is a control that is not trained: there is nothing to advise."]

    def about(row: Row) -> bool:
        return row.backbone == backbone and plan.component(params, row.method) == asked.method

    gathered, skipped = gather(index, about, asked)
    answer = _answer(index, asked, gathered, skipped)
    return [title, *(line for text in answer for line in _wrapped(text))]


def _answer(
    index: RecordIndex, asked: Question, gathered: Sequence[Evidence], skipped: Sequence[str]
) -> Iterator[str]:
    if not gathered:
        where = f"{asked.method} on {asked.backbone}"
        why = f"no experiment of track {index.params.track} has {where}"
        if skipped:
            why = f"{where} is in {', '.join(skipped)}, without complete records"
        yield f"The records cannot say: {why}."
        yield _nearest(index, asked)
        return
    claims = load.read(index.root)
    first, *others = gathered
    yield from _verdict(index, claims, first)
    yield _provenance(index.params, first)
    further: dict[str, Evidence] = {}
    for other in others:
        if other.experiment != first.experiment:
            further.setdefault(other.experiment, other)
    for other in list(further.values())[:ALSO]:
        yield f"Also {_summary(index, claims, asked, other)}."
    if rest := list(further)[ALSO:]:
        yield f"Also in {', '.join(rest)}."
    if skipped:
        yield f"Skipped, without complete records: {', '.join(skipped)}."
    yield f"How far: {' '.join(_limits(index.params, asked, first, others))}"


def _verdict(index: RecordIndex, claims: Claims, evidence: Evidence) -> Iterator[str]:
    tied, avoid = standing(index, claims, evidence)
    seeds = {own.row.scheme: len(own.seeds) for own in evidence.complete}
    shown = []
    for scheme, centre in tied.items():
        half = half_width(evidence.accuracy, seeds[scheme])
        text = f"{scheme} {100 * centre:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
        if len(set(seeds.values())) > 1:
            text += f" ({counted(seeds[scheme], 'seed')})"
        shown.append(text)
    best = ", ".join(shown)
    if not best:
        yield "Best: none of the schemes measured."
    elif len(seeds) == 1:
        yield f"The records cannot say which scheme is best: only {best} was measured."
    elif evidence.accuracy.sd is None:
        yield f"One seed a scheme gives no interval, so the order is undecided: {best}."
    else:
        yield f"Best: {best}; {'tied' if len(shown) > 1 else 'no other is tied with it'}."
    if avoid:
        reasons = (f"{scheme} ({reason})" for scheme, reason in avoid.items())
        yield f"Avoid: {', '.join(reasons)}."


def _provenance(params: Params, evidence: Evidence) -> str:
    counts = sorted({len(own.seeds) for own in evidence.complete})
    seeds = " or ".join([*map(str, counts[:-1]), counted(counts[-1], "seed")])
    rates = "the recipe's rate for every scheme"
    if evidence.tuned:
        recipe = params.methods[evidence.recipe]
        other = recipe.learning_rates_from if isinstance(recipe, MethodParams) else None
        rates = "rates tuned for each scheme" + (f" of {other}" if other else "")
    parts = [f"Evidence: experiment {evidence.experiment}, {seeds}, {rates}"]
    parts.append("kNN in %, BN statistics re-estimated")
    if evidence.accuracy.sd is not None:
        parts.append("intervals of 95 %, unadjusted")
    if evidence.missing:
        parts.append(f"not yet run: {', '.join(evidence.missing)}")
    return f"{'; '.join(parts)}."


def _summary(index: RecordIndex, claims: Claims, asked: Question, evidence: Evidence) -> str:
    notes = [] if evidence.batch == asked.batch else [f"batch {evidence.batch}"]
    notes += evidence.differences
    notes += [] if evidence.tuned else ["rates not tuned"]
    where = evidence.experiment + (f" ({'; '.join(notes)})" if notes else "")
    if len(evidence.complete) == 1:
        return f"{where}: only {evidence.complete[0].row.scheme}"
    tied, avoid = standing(index, claims, evidence)
    order = "undecided" if evidence.accuracy.sd is None else "best"
    others = f"; avoid {', '.join(avoid)}" if avoid else ""
    return f"{where}: {order} {', '.join(tied) or 'none'}{others}"


def _limits(
    params: Params, asked: Question, evidence: Evidence, others: Sequence[Evidence]
) -> Iterator[str]:
    if evidence.batch != asked.batch:
        same = any(other.batch == asked.batch for other in others)
        compared = " at which schemes were compared" if same else ""
        yield f"The nearest batch{compared} is {evidence.batch}, not {asked.batch}."
    if evidence.differences:
        yield f"Nearest recipe {evidence.recipe}: {', '.join(evidence.differences)}."
    if edges := [own.row.scheme for own in evidence.complete if own.at_edge]:
        yield f"A better rate may lie beyond those tried for {', '.join(edges)}."
    recipe = params.methods[evidence.recipe]
    if isinstance(recipe, MethodParams):
        steps = plan.images_seen(recipe, evidence.backbone) // evidence.batch
        yield (
            f"A training on {params.track} ({params.title}) has {steps:,} "
            "steps; longer ones, larger networks or other images may order the schemes otherwise."
        )


def _nearest(index: RecordIndex, asked: Question) -> str:
    """The same method with another backbone, else the most similar method."""
    params = index.params

    def same_method(row: Row) -> bool:
        return row.backbone != asked.backbone and plan.component(params, row.method) == asked.method

    def same_backbone(row: Row) -> bool:
        component = plan.component(params, row.method)
        return row.backbone == asked.backbone and component not in (asked.method, *CONTROLS)

    def likeness(evidence: Evidence) -> tuple[bool, int]:
        # Whether schemes were compared, and how many facts the two methods share.
        own, theirs = registry.facts("method", asked.method), plan.facts(params, evidence.recipe)
        shared = sum(own[fact] == theirs[fact] for fact in ("sections", "teacher", "views"))
        return len(evidence.complete) > 1, shared

    for wanted in (same_method, same_backbone):
        gathered, _ = gather(index, wanted, asked)
        if gathered:
            best = max(gathered, key=likeness)
            where = f"in experiment {best.experiment}"
            return f"The nearest with records is {best.recipe} on {best.backbone}, {where}."
    return "Nothing near it has records either."


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
