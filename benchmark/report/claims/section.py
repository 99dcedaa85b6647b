"""What the page says of one claim's advice: its verdict and all that it rests on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from benchmark.analysis import power
from benchmark.analysis.claims.arms import Arm
from benchmark.analysis.claims.diagnostics import Halfway, Leak
from benchmark.analysis.claims.differences import Difference, seed_list
from benchmark.analysis.claims.images import OtherImages
from benchmark.analysis.claims.judge import Judged, Planned
from benchmark.analysis.claims.schema import STABLE_RATE, Advice, Claims
from benchmark.analysis.claims.sensitivity import Sensitivity
from benchmark.analysis.contrasts import Finding
from benchmark.report.claims import formatting
from benchmark.report.claims.formatting import NONE, bullets, table
from benchmark.report.leaderboard.tables import escape
from benchmark.results.origins import MARKS


def advised(judged: Judged, advice: Advice, claims: Claims, track: str) -> Iterator[str]:
    """The paragraphs and tables of a claim's advice, in Markdown."""
    found = judged.difference
    yield f"**Question.** {escape(advice.question)}"
    verdict = f"**Verdict: {judged.verdict}** {formatting.on_track(track)}."
    yield f"{verdict}\n\n{bullets(escape(reason) for reason in judged.reasons)}"
    yield f"![{escape(judged.claim.title)}](figures/claims/{judged.name}.svg)"
    if found is None:
        return
    yield _compared(advice, tuned=judged.tuned)
    if judged.planned:
        yield f"**Seeds.** {_planned(judged.planned, advice, claims)}"
    if found.finding:
        yield _finding(found.finding, judged, advice, claims)
        yield _pairs(found, advice)
        yield _pairing(found)
    yield _arms(judged, found)
    if judged.sensitivity:
        yield _sensitivity(judged.sensitivity, advice)
    elif found.finding and advice.metric != STABLE_RATE and not judged.tuned:
        yield (
            "**Another learning rate.** Both arms have the recipe's rate. What another would make of "
            "the verdict is not known."
        )
    if judged.images:
        yield _images(judged.images, judged, advice)
    if judged.leaks:
        yield _leaks(judged.leaks)
    if judged.halfway:
        yield _halfway(judged.halfway)
    if described := list(_described(judged, advice)):
        yield "Beside it, deciding nothing (intervals of 95 % each, not adjusted):"
        yield table(["difference", "plus", "minus", "estimate (interval)", "seeds"], described)
    yield _cells(found, track)


def _finding(found: Finding, judged: Judged, advice: Advice, claims: Claims) -> str:
    metric, unit = advice.metric, escape(formatting.unit(advice))
    least = "at least " if judged.at_least else ""
    lines = [
        f"estimate, {advice.plus} minus {advice.minus}: **{least}{formatting.interval(found, metric)}** "
        f"{unit}, n = {found.n}, in {_metrics(advice)}",
        f"p {formatting.chance(found.p)}, adjusted p {formatting.chance(found.p_adjusted)}",
    ]
    if metric == STABLE_RATE and judged.difference:
        apart = _apart(judged.difference.plus)
        lines.append(
            f"the rates tried are {apart:.2f} decades apart, and nothing finer can be seen"
        )
    margin = claims.margins.get(metric)
    if margin is not None and found.p_equivalence is not None:
        lines.append(
            f"equivalence within ± {formatting.amount(margin, metric, signed=False)} {unit}: "
            f"{'shown' if found.equivalent else 'not shown'} "
            f"(p {formatting.chance(found.p_equivalence)})"
        )
    if found.se == 0:
        lines.append("all seeds agree, so the interval is a point, and p is the chance of that")
        return bullets(lines)
    if found.detectable is not None:
        seen = formatting.amount(found.detectable, metric, signed=False)
        lines.append(f"smallest effect that this design finds four times in five: {seen} {unit}")
    own, pooled = (
        NONE if sd is None else formatting.amount(sd, metric, signed=False)
        for sd in (found.own_sd, found.pooled_sd)
    )
    decided = "the pool's" if found.pooled else "its own"
    lines.append(
        f"spread of a difference: its own {own}, the pool's {pooled}; {decided} decides, with "
        f"{found.df} degrees of freedom"
    )
    return bullets(lines)


def _metrics(advice: Advice) -> str:
    if advice.minus_metric is None:
        return formatting.METRICS[advice.metric]
    return f"{formatting.METRICS[advice.metric]}, minus {formatting.METRICS[advice.minus_metric]}"


def _compared(advice: Advice, *, tuned: bool) -> str:
    """In what the arms differ, as the claim says and `alike` has checked."""
    rates = "; each has a learning rate of its own, tuned alike" if tuned else ""
    if not advice.differs:
        return "**Compared.** Two measurements of the same networks."
    fields = ", ".join(f"`{field}`" for field in advice.differs)
    return f"**Compared.** The arms differ in {fields} and in nothing else{rates}."


def _planned(planned: Planned, advice: Advice, claims: Claims) -> str:
    """How many seeds the verdict needs, in plain words."""
    metric, unit = advice.metric, escape(formatting.unit(advice))
    margin = f"{formatting.whole(claims.margins[metric], metric)} {unit}"
    said = [
        f"Before the runs, the difference was taken to have a standard deviation over seeds of "
        f"{formatting.whole(advice.pilot.sd, metric)} {unit} ({escape(advice.pilot.source)})."
    ]
    needed = (
        f"more than {power.MOST}" if planned.for_equivalence is None else planned.for_equivalence
    )
    if planned.reachable:
        said.append(
            f"Equivalence within ±{margin} needs {needed} seeds, and the experiment has {planned.seeds}."
        )
    else:
        said.append(
            f"Equivalence within ±{margin} is not reachable with {planned.seeds} seeds at this spread: "
            f"it needs {needed}."
        )
    least = f"more than {power.MOST}" if planned.for_difference is None else planned.for_difference
    said.append(f"A difference of {margin} needs {least}.")
    return " ".join(said)


def _sensitivity(found: Sensitivity, advice: Advice) -> str:
    rows = []
    for step in found.steps:
        rate = NONE if step.rate is None else f"{step.rate:g}"
        if step.change is None or step.estimate is None:
            rows.append([f"`{step.arm}`", step.direction, rate, NONE, NONE, "not known"])
            continue
        change, estimate = (
            formatting.amount(value, advice.metric) for value in (step.change, step.estimate)
        )
        rows.append([f"`{step.arm}`", step.direction, rate, change, estimate, str(step.verdict)])
    head = [
        "arm",
        "one step",
        "learning rate",
        "its accuracy, expected",
        "estimate then",
        "verdict then",
    ]
    lead = f"**Another learning rate** (this decides nothing): {escape(found.summary)}."
    return f"{lead}\n\n{table(head, rows)}"


def _images(found: OtherImages, judged: Judged, advice: Advice) -> str:
    """The verdict with the variance over test images, in plain words."""
    unit, se = (
        escape(formatting.unit(advice)),
        formatting.amount(found.se, advice.metric, signed=False),
    )
    same = "the same" if found.verdict == judged.verdict else f"**{found.verdict}**"
    return (
        "**Other test images** (this decides nothing): the interval above is for the images of this "
        f"track. Were they drawn anew too, with a standard error of {se} {unit} of their own, it would "
        f"be {formatting.interval(found.finding, advice.metric)}, and the verdict {same}."
    )


def _apart(own: Arm) -> float:
    """The widest step between the rates of an arm that has every record, in decades."""
    rates = sorted(row.records[own.seeds[0]].record.cell.recipe.learning_rate for row in own.rows)
    return max(math.log10(b / a) for a, b in itertools.pairwise(rates))


def _pairs(found: Difference, advice: Advice) -> str:
    metric = advice.metric
    rows = []
    for own in found.arms:
        values = [*(own.values[seed] for seed in found.seeds), own.mean]
        shown = [formatting.amount(value, metric, signed=False) for value in values]
        of = f", {formatting.METRICS[own.metric]}" if advice.minus_metric else ""
        rows.append([f"`{own.name}`{of}", *shown])
    gaps = [found.plus.values[seed] - found.minus.values[seed] for seed in found.seeds]
    gaps += [found.finding.estimate] if found.finding else []
    rows.append(["difference", *(formatting.amount(gap, metric) for gap in gaps)])
    return table(["seed", *map(str, found.seeds), "mean"], rows)


def _pairing(found: Difference) -> str:
    if found.correlation is None:
        return "The seeds are too few, or vary too little, to say whether pairing them gained anything."
    gained = "pairing gained precision" if found.correlation > 0 else "pairing gained nothing"
    return f"Correlation of the arms over the seeds: {found.correlation:+.2f}, so {gained}."


def _arms(judged: Judged, found: Difference) -> str:
    rows = []
    for own in {own.name: own for own in found.arms}.values():
        accuracy = NONE if own.accuracy is None else f"{100 * own.accuracy:.1f}"
        learnt = {True: "yes", False: "**no**", None: NONE}[own.learnt]
        rows.append([f"`{own.name}`", accuracy, learnt, _rate(own)])
    if judged.bar and judged.bar.least is not None and judged.bar.better is not None:
        least, better = 100 * judged.bar.least, 100 * judged.bar.better
        rows.append([f"`{judged.bar.row}`", f"{better:.1f}", f"from {least:.1f} on", NONE])
    return table(["arm", "kNN, %", "learnt", "learning rate"], rows)


def _rate(own: Arm) -> str:
    if not own.values:
        return NONE
    if own.metric == STABLE_RATE:
        return "the highest tried is stable for a seed" if own.at_edge else "within those tried"
    rate = own.rows[0].rate
    if rate is None:
        return "of the recipe"
    return f"{rate:g}" + (", at the edge of those tried" if own.at_edge else "")


def _leaks(leaks: Sequence[Leak]) -> str:
    def share(value: float | None) -> str:
        return NONE if value is None else f"{100 * value:.1f}"

    rows = [
        [
            f"`{leak.row}`",
            share(leak.together),
            share(leak.apart),
            share(leak.excess),
            NONE if leak.batch_dependence is None else f"{leak.batch_dependence:.3f}",
            f"{share(leak.same_group)} ({share(leak.same_group_chance)})",
        ]
        for leak in leaks
    ]
    head = [
        "arm",
        "pretext, one BN group, %",
        "regrouped, %",
        "swap excess, points",
        "batch dependence",
        "same-group neighbours, % (by chance)",
    ]
    return table(head, rows)


def _halfway(found: Halfway) -> str:
    rows = []
    for speed in found.speeds:
        images = NONE
        if speed.images:
            low, high = min(speed.images), max(speed.images)
            images = f"{'at most ' if speed.at_most else ''}{low:.0f}"
            images += f" to {high:.0f}" if high > low else ""
        reached = f"{len(speed.images)} of {speed.seeds}"
        accuracy = f"{100 * speed.accuracy:.1f}"
        rows.append([f"`{speed.scheme}`", f"{speed.rate:g}", accuracy, images, reached])
    head = [
        "scheme",
        "its best rate",
        "kNN there, %",
        "images to half way",
        "seeds that came there",
    ]
    lead = f"Half way is a kNN accuracy of {100 * found.target:.1f} % while training:"
    return f"{lead}\n\n{table(head, rows)}"


def _described(judged: Judged, advice: Advice) -> Iterator[list[str]]:
    others: list[tuple[str, Difference | None, Advice]] = []
    if judged.plain:
        running = advice.model_copy(update={"metric": "knn"})
        others.append(("The same with running statistics", judged.plain, running))
    if judged.confirmation:
        others.append(("What must have the same sign", judged.confirmation, advice))
    others += [(entry.text, other, advice) for entry, other in judged.beside]
    for text, other, asked in others:
        if other is None:
            yield [escape(text), NONE, NONE, "not on this track", NONE]
            continue
        finding = other.finding
        shown = "; ".join(map(escape, other.lacking[:1]))
        if finding:
            shown = f"{formatting.interval(finding, asked.metric)} {escape(formatting.unit(asked))}"
        n = str(finding.n) if finding else NONE
        yield [escape(text), f"`{other.plus.name}`", f"`{other.minus.name}`", shown, n]


def _cells(found: Difference, track: str) -> str:
    lines = []
    for own in {own.name: own for own in found.arms}.values():
        for row in own.rows:
            known = [
                f"s{s} `{row.records[s].checksum[:12]}`" for s in own.seeds if s in row.records
            ]
            lost = [seed for seed in own.seeds if seed not in row.records]
            shown = ", ".join(known)
            if lost:
                shown += f"{'; ' if known else ''}no record of {seed_list(lost)}"
            lines.append(f"`{track}/{row.experiment}/{row.row}`: {shown}")
    summary = "<summary>The cells behind it, with the sha256 of their records</summary>"
    return f"<details>{summary}\n\n{bullets(lines)}\n\n{_provenance(found)}\n\n</details>"


def _provenance(found: Difference) -> str:
    """What is to be said against the provenance of how many of the records."""
    arms = {own.name: own for own in found.arms}.values()
    marks = [own_marks for own in arms for row in own.rows for own_marks in row.marks.values()]
    counts = {mark: sum(mark in one for one in marks) for mark in MARKS}
    said = [f"{count} **{mark}** ({MARKS[mark]})" for mark, count in counts.items() if count]
    lead = f"Provenance of the {len(marks)} records: "
    return lead + ("; ".join(said) or "nothing is to be said against it") + "."
