"""The leaderboard for people. Every file is a function of the records: no times, hosts or paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmark.analysis.gate import LEARNT
from benchmark.analysis.leaderboard import Cost, Entry, Metric, Setting, Table
from benchmark.analysis.statistics import LEVEL
from benchmark.core.wording import counted
from benchmark.report.drawing import NAMES
from benchmark.report.leaderboard.document import RULE
from benchmark.report.leaderboard.formatting import counts, environment_name, environments
from benchmark.report.markdown import NONE, code, escape, points, render
from benchmark.results.metrics import RANKING
from benchmark.results.origins import MARKS, UNRECORDED, Origin

PARTIAL, RATE_EDGE, PENALTY_EDGE, MARKED, NOT_LEARNT = "†", "‡", "§", "¶", "∅"


@dataclass(frozen=True)
class Backbone:
    """The table of one backbone, as Markdown cells."""

    name: str
    head: tuple[str, ...]
    align: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown(table: Table, figure: str) -> str:
    """The text of `<experiment>.md`; `figure` is the address of the figure."""
    numbers = {len(entry.seeds) for entry in table.entries if not entry.control}
    near, far = table.neighbours
    return render(
        "leaderboard.md.j2",
        table=table,
        figure=figure,
        seeds=counted(min(numbers, default=0), "seed") if len(numbers) == 1 else "the seeds",
        backbones=[_backbone(table, backbone) for backbone in table.backbones],
        near=near,
        far=far,
        least=f"{100 * LEARNT:g}",
        level=f"{LEVEL:.0%}",
        rule=RULE,
        pools=list(_pools(table)),
        missing=table.missing_controls(),
        crashed=any("crashed" in entry.statuses for entry in table.entries),
        environments=list(_environments(table)),
        programs=list(_programs(table)),
        partial=PARTIAL,
        rate_edge=RATE_EDGE,
        penalty_edge=PENALTY_EDGE,
        not_learnt=NOT_LEARNT,
    )


def _backbone(table: Table, backbone: str) -> Backbone:
    entries = table.of(backbone)
    own = [e for e in entries if e.row.backbone == backbone]
    # A readout that the backbone does not have is no column.
    columns = [
        metric
        for metric in table.metrics
        if metric.name != "class_token" or any(e.estimates[metric.name] for e in own)
    ]
    measures = ("spread", "update, %", "lr tuned", "lr default", "params · images · TFLOP")
    return Backbone(
        name=NAMES.get(backbone, backbone),
        head=("#", "method", "scheme", *(m.title for m in columns), *measures, "status"),
        align=("--:", ":--", ":--", *["--:"] * (len(columns) + len(measures)), ":--"),
        rows=tuple(tuple(_row(table, entry, columns)) for entry in entries),
    )


def _row(table: Table, entry: Entry, columns: Sequence[Metric]) -> Iterator[str]:
    bold = "**" if entry.tied else ""
    yield "" if entry.rank is None else str(entry.rank)
    yield escape(entry.row.method)
    yield f"{bold}{escape(entry.row.scheme)}{bold}"
    first, *others = columns
    yield f"{bold}{_accuracy(entry, first)}{bold}"
    for metric in others:
        same = metric.name == "knn" and _is_same(entry, metric, first)
        yield "=" if same else _accuracy(entry, metric)
    yield _by_section([NONE if v is None else f"{v:.2f}" for v in entry.collapse.values()])
    yield _by_section([NONE if v is None else f"{100 * v:.2g}" for v in entry.updates.values()])
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
    """Whether two metrics, of which there is at least one value, agree for every seed."""
    found = [run.published.record.result.metrics for run in entry.records]
    return entry.estimates[metric.name] is not None and all(
        result.get(metric.key) == result.get(other.key) for result in found
    )


def _accuracy(entry: Entry, metric: Metric) -> str:
    found = entry.estimates[metric.name]
    if found is None:
        return NONE
    shown = points(found.mean)
    if found.half_width:
        shown += f" ± {points(found.half_width)}"
    if found.n < len(entry.seeds):
        shown += f" {PARTIAL}"
    if metric.name == "linear" and entry.penalty_at_edge:
        shown += f" {PENALTY_EDGE}"
    return shown


def _by_section(shown: Sequence[str]) -> str:
    return " · ".join(shown) or NONE


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
    """Which programs made how many of the records, and the flaws of their provenance."""
    runs = [run for entry in table.entries for run in entry.records]
    made = Counter(
        _program(run.origin) for run in runs if run.origin and UNRECORDED not in run.marks
    )
    for program, count in made.items():
        yield f"{_records(count)}: {program}."
    for mark, count in Counter(mark for run in runs for mark in run.marks).items():
        verb = "is" if count == 1 else "are"
        yield f"{MARKED} {_records(count)} {verb} **{mark}**: {MARKS[mark]}."


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def _program(origin: Origin) -> str:
    """One program in words, as Markdown."""
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
