"""What the published records advise for a method, a backbone and a batch, and how far they reach."""

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
"""Further experiments that are summed up in a line each."""


def question(params: Params, method: str, backbone: str, batch: int | None) -> Question:
    """The question with its names checked; without a batch it is the recipe's own.

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
    """The advice in lines of text: schemes tied for best, schemes to avoid, the evidence, its reach.

    Schemes are compared within the recipe and experiment that come nearest to the question; others
    are summed up. Raises UserError for names that do not exist, and where a record is of another
    configuration than the params ask for.
    """
    params = index.params
    asked = question(params, method, backbone, batch)
    said = [f"{method} on {backbone}, batch {asked.batch}, track {params.track}"]
    if not registry.facts("method", asked.method)["views"]:
        return [*said, f"{method} is a control that is not trained: there is nothing to advise."]

    def about(row: Row) -> bool:
        return row.backbone == backbone and plan.component(params, row.method) == asked.method

    found, skipped = gather(index, about, asked)
    if not found:
        said += _wrapped(f"The records cannot say: {_nothing(params, asked, skipped)}.")
        return said + _wrapped(_nearest(index, asked))
    claims = load.read(index.root)
    first, *others = found
    said += [*_verdict(index, claims, first), *_wrapped(_provenance(params, first))]
    further: dict[str, Evidence] = {}
    for other in others:
        if other.experiment != first.experiment:
            further.setdefault(other.experiment, other)
    for other in list(further.values())[:ALSO]:
        said += _wrapped(f"Also {_summary(index, claims, asked, other)}.")
    if rest := list(further)[ALSO:]:
        said += _wrapped(f"Also in {', '.join(rest)}.")
    if skipped:
        said += _wrapped(f"Skipped, without complete records: {', '.join(skipped)}.")
    return said + _wrapped(f"How far: {' '.join(_reach(params, asked, first, others))}")


def _verdict(index: RecordIndex, claims: Claims, evidence: Evidence) -> list[str]:
    found = standing(index, claims, evidence)
    rows = {own.row.scheme: own for own in evidence.complete}
    alike = len({len(own.seeds) for own in evidence.complete}) == 1
    shown = []
    for scheme, centre in found.tied.items():
        n = len(rows[scheme].seeds)
        half = half_width(evidence.accuracy, n)
        text = f"{scheme} {100 * centre:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
        shown.append(text if alike else f"{text} ({counted(n, 'seed')})")
    best = ", ".join(shown)
    if not best:
        said = "Best: none of the schemes measured."
    elif len(rows) == 1:
        said = f"The records cannot say which scheme is best: only {best} was measured."
    elif evidence.accuracy.sd is None:
        said = f"One seed a scheme gives no interval, so the order is undecided: {best}."
    else:
        said = f"Best: {best}; {'tied' if len(shown) > 1 else 'no other is tied with it'}."
    lines = _wrapped(said)
    if found.avoid:
        reasons = (f"{scheme} ({reason})" for scheme, reason in found.avoid.items())
        lines += _wrapped(f"Avoid: {', '.join(reasons)}.")
    return lines


def _provenance(params: Params, evidence: Evidence) -> str:
    counts = sorted({len(own.seeds) for own in evidence.complete})
    seeds = " or ".join([*map(str, counts[:-1]), counted(counts[-1], "seed")])
    parts = [f"Evidence: experiment {evidence.experiment}, {seeds}, {_rates(params, evidence)}"]
    parts.append("kNN in %, BN statistics re-estimated")
    if evidence.accuracy.sd is not None:
        parts.append("intervals of 95 %, unadjusted")
    if evidence.missing:
        parts.append(f"not yet run: {', '.join(evidence.missing)}")
    return f"{'; '.join(parts)}."


def _rates(params: Params, evidence: Evidence) -> str:
    if not evidence.tuned:
        return "the recipe's rate for every scheme"
    recipe = params.methods[evidence.recipe]
    other = recipe.learning_rates_from if isinstance(recipe, MethodParams) else None
    return "rates tuned for each scheme" + (f" of {other}" if other else "")


def _summary(index: RecordIndex, claims: Claims, asked: Question, evidence: Evidence) -> str:
    notes = [] if evidence.batch == asked.batch else [f"batch {evidence.batch}"]
    notes += evidence.differences
    notes += [] if evidence.tuned else ["rates not tuned"]
    where = evidence.experiment + (f" ({'; '.join(notes)})" if notes else "")
    if len(evidence.complete) == 1:
        return f"{where}: only {evidence.complete[0].row.scheme}"
    found = standing(index, claims, evidence)
    order = "undecided" if evidence.accuracy.sd is None else "best"
    avoid = f"; avoid {', '.join(found.avoid)}" if found.avoid else ""
    return f"{where}: {order} {', '.join(found.tied) or 'none'}{avoid}"


def _reach(
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


def _nothing(params: Params, asked: Question, skipped: Sequence[str]) -> str:
    where = f"{asked.method} on {asked.backbone}"
    if skipped:
        return f"{where} is in {', '.join(skipped)}, without complete records"
    return f"no experiment of track {params.track} has {where}"


def _nearest(index: RecordIndex, asked: Question) -> str:
    """The same method in another backbone, else the method that is built most alike."""
    params = index.params

    def elsewhere(row: Row) -> bool:
        return row.backbone != asked.backbone and plan.component(params, row.method) == asked.method

    def others(row: Row) -> bool:
        component = plan.component(params, row.method)
        return row.backbone == asked.backbone and component not in (asked.method, *CONTROLS)

    for wanted in (elsewhere, others):
        found, _ = gather(index, wanted, asked)
        if found:
            best = max(found, key=lambda evidence: _likeness(params, asked, evidence))
            where = f"in experiment {best.experiment}"
            return f"The nearest with records is {best.recipe} on {best.backbone}, {where}."
    return "Nothing near it has records either."


def _likeness(params: Params, asked: Question, evidence: Evidence) -> tuple[bool, int]:
    """Whether schemes were compared, and how many facts the two methods share."""
    own, theirs = registry.facts("method", asked.method), plan.facts(params, evidence.recipe)
    shared = sum(own[fact] == theirs[fact] for fact in ("sections", "teacher", "views"))
    return len(evidence.complete) > 1, shared


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
