"""The leaderboard for people. It depends only on the records: no times, hosts or paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmark.analysis import gate
from benchmark.analysis.leaderboard import Cost, Entry, Metric, Setting, Table
from benchmark.analysis.statistics import LEVEL
from benchmark.config.overrides import flags
from benchmark.core.wording import counted
from benchmark.report.drawing import NAMES
from benchmark.report.leaderboard.document import RULE
from benchmark.report.leaderboard.formatting import counts, environment_name, environments
from benchmark.report.markdown import NONE, code, escape, points, render
from benchmark.results.metrics import RANKING
from benchmark.results.origins import MARKS, UNRECORDED, Origin

PARTIAL, RATE_EDGE, PENALTY_EDGE, MARKED, NOT_LEARNT = "†", "‡", "§", "¶", "∅"


def markdown(table: Table, figure: str) -> str:
    """The text of `<experiment>.md`; `figure` is the address of the figure."""
    numbers = {len(entry.seeds) for entry in table.entries if not entry.control}
    near, far = table.neighbours
    methods = {entry.method for entry in table.entries}
    return render(
        "leaderboard.md.j2",
        table=table,
        figure=figure,
        seeds=counted(min(numbers, default=0), "seed") if len(numbers) == 1 else "the seeds",
        backbones=[_backbone(table, backbone) for backbone in table.backbones],
        near=near,
        far=far,
        least=f"{100 * gate.LEARNT:g}",
        level=f"{LEVEL:.0%}",
        rule=RULE,
        pools=list(_pools(table)),
        legends=dict.fromkeys(metric.legend for metric in table.metrics if metric.legend),
        too_few=_too_few(table),
        finetuned=any(metric.name == "finetune" for metric in table.metrics),
        transfer=table.transfer,
        missing=[
            names[0]
            for names in (("supervised",), gate.STARTS, ("raw-pixels",))
            if methods.isdisjoint(names)
        ],
        pretrained="pretrained" in methods,
        crashed=any("crashed" in entry.statuses for entry in table.entries),
        environments=list(_environments(table)),
        programs=list(_programs(table)),
        partial=PARTIAL,
        rate_edge=RATE_EDGE,
        penalty_edge=PENALTY_EDGE,
        not_learnt=NOT_LEARNT,
    )


def _backbone(table: Table, backbone: str) -> dict[str, Any]:
    """The table of one backbone, as Markdown cells."""
    entries = table.of(backbone)
    # E.g. the class token is a column only for backbones that have one.
    columns = [
        metric
        for metric in table.metrics
        if not metric.optional or any(e.estimates[metric.name] for e in entries)
    ]
    measures = ("spread", "update, %", "lr tuned", "lr default", "params · images · TFLOP")
    return {
        "name": NAMES.get(backbone, backbone),
        "head": ("#", "method", "scheme", *(m.title for m in columns), *measures, "status"),
        "align": ("--:", ":--", ":--", *["--:"] * (len(columns) + len(measures)), ":--"),
        "rows": [list(_row(table, entry, columns)) for entry in entries],
    }


def _row(table: Table, entry: Entry, columns: Sequence[Metric]) -> Iterator[str]:
    bold = "**" if entry.tied else ""
    yield "" if entry.rank is None else str(entry.rank)
    yield escape(entry.row.method)
    yield f"{bold}{escape(entry.row.scheme)}{bold}"
    first, *others = columns
    yield f"{bold}{_accuracy(table, entry, first)}{bold}"
    for metric in others:
        same = metric.name == "knn" and _is_same(entry, metric, first)
        yield "=" if same else _accuracy(table, entry, metric)
    yield _by_section(entry.collapse, lambda value: f"{value:.2f}")
    yield _by_section(entry.updates, lambda value: f"{100 * value:.2g}")
    rates = entry.rates
    edge = f" {RATE_EDGE}" if rates and rates.at_edge else ""
    yield f"{_setting(rates.tuned)}{edge}" if rates and rates.tuned else NONE
    yield _setting(rates.default) if rates else NONE
    yield _cost(entry.cost)
    status = escape(counts(entry))
    if entry.learnt is False and not entry.control:
        status += f" {NOT_LEARNT}"
    if len(table.environments) > 1:
        status += f", env. {environments(entry)}"
    if any(run.marks for run in entry.records):
        status += f" {MARKED}"
    yield status


def _is_same(entry: Entry, metric: Metric, other: Metric) -> bool:
    """Whether two metrics agree for every seed, and have at least one value."""
    results = [run.published.record.result.metrics for run in entry.records]
    return entry.estimates[metric.name] is not None and all(
        result.get(metric.key) == result.get(other.key) for result in results
    )


def _accuracy(table: Table, entry: Entry, metric: Metric) -> str:
    estimate, far = entry.estimates[metric.name], table.neighbours[1]
    if estimate is None or (metric.name == f"knn{far}" and _too_few(table)):
        return NONE
    shown = points(estimate.mean)
    if estimate.half_width:
        shown += f" ± {points(estimate.half_width)}"
    if estimate.n < len(entry.seeds):
        shown += f" {PARTIAL}"
    results = (run.published.record.result.metrics for run in entry.records)
    if any(result.get(f"{metric.key}.penalty_at_edge") for result in results):
        shown += f" {PENALTY_EDGE}"
    return shown


def _too_few(table: Table) -> bool:
    """Whether there are fewer training images than the larger number of neighbours."""
    return table.images is not None and table.images < table.neighbours[1]


def _by_section(values: Mapping[str, float | None], shown: Callable[[float], str]) -> str:
    return " · ".join(NONE if v is None else shown(v) for v in values.values()) or NONE


def _setting(setting: Setting) -> str:
    scored = "" if setting.validation is None else f" (val. {points(setting.validation)})"
    return f"{setting.rate:g}{scored}"


def _cost(cost: Cost) -> str:
    size = NONE if cost.parameters is None else _short(cost.parameters)
    if not cost.images:
        return f"{size} · 0 · 0"
    compute = NONE if cost.tflop is None else f"{cost.tflop:.3g}"
    return f"{size} · {_short(cost.images)} · {compute}"


def _short(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _pools(table: Table) -> Iterator[str]:
    for pool in table.pools:
        if pool.metric == RANKING and pool.sd is not None:
            name, trained = NAMES.get(pool.backbone, pool.backbone), "" if pool.trained else "un"
            spread = f"s = {points(pool.sd, 2)}, df = {pool.df}"
            yield f"{escape(name)} {trained}trained {spread}"


def _environments(table: Table) -> Iterator[str]:
    for place, environment in enumerate(table.environments):
        facts = ", ".join(f"{key} {environment[key]}" for key in sorted(environment))
        yield f"{environment_name(place)}: {escape(facts)}"


def _programs(table: Table) -> Iterator[str]:
    """The number of records that each program made, and the flaws of their provenance."""
    runs = [run for entry in table.entries for run in entry.records]
    made = Counter(
        _program(run.origin) for run in runs if run.origin and UNRECORDED not in run.marks
    )
    for program, count in made.items():
        yield f"{counted(count, 'record')}: {program}."
    for mark, count in Counter(mark for run in runs for mark in run.marks).items():
        verb = "is" if count == 1 else "are"
        yield f"{MARKED} {counted(count, 'record')} {verb} **{mark}**: {MARKS[mark]}."
    stated = Counter(flags(run.published.overrides) for run in runs)
    for given, count in stated.items():
        if given:
            yield f"{counted(count, 'record')} published with `{code(given)}`."
    if table.overrides:
        yield f"This table was written with `{code(flags(table.overrides))}`."


def _program(origin: Origin) -> str:
    """One program, as Markdown."""
    program, machine = origin.program, origin.machine
    commit = program.commit
    words = [f"commit `{commit[:12]}`" if commit else "unknown commit"]
    if program.lock_sha256:
        words.append(f"uv.lock `{program.lock_sha256[:12]}`")
    if program.reconstructed:
        return ", ".join(words)
    image = program.image
    built = f"image `{code(image.id or image.base_digest)}`" if image else "no image"
    return ", ".join([*words, built, escape(machine.cpu or machine.platform or "")])
