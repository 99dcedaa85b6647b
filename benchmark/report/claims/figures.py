"""One figure for each claim, of whatever records there are, readable without colour.

Nothing is drawn of a row that lacks the record of a seed: the figure says so instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmark.analysis.claims.arms import ACCURACY, Bar
from benchmark.analysis.claims.judge import Judged
from benchmark.analysis.claims.schema import Advice, GroupsFigure, RatesFigure
from benchmark.analysis.statistics import mean
from benchmark.planning.cell import Row
from benchmark.report import drawing
from benchmark.report.claims.formatting import METRICS
from benchmark.report.claims.placement import placement
from benchmark.report.drawing import GREY, PAPER, handle, mark
from benchmark.results.rows import RecordIndex, RowRecords

HEIGHT = 3.6
"""Inches."""

LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 3)))
"""Line styles that can be told apart."""

EMPTY = "no records yet"

KNN = "kNN accuracy, %, statistics re-estimated"


def drawn(judged: Judged, index: RecordIndex) -> bytes:
    """The figure of a claim as SVG."""
    from matplotlib.figure import Figure

    kinds: dict[str, Callable[[Any, Judged, Advice, RecordIndex], None]] = {
        "rates": _rates,
        "groups": _groups,
        "leakage": _leakage,
        "placement": lambda figure, _, advice, index: placement(figure, index, advice.experiment),
        "arms": _arms,
    }
    advice = judged.claim.advice
    with drawing.drawing(f"claim {judged.name}"):
        figure = Figure(figsize=(drawing.WIDTH, HEIGHT))
        if advice is None or judged.difference is None:
            what = "; ".join(judged.reasons) or "judged by what is published alone"
            figure.text(0.5, 0.5, what, ha="center", va="center", color=GREY)
        else:
            kinds[judged.claim.figure.kind](figure, judged, advice, index)
        return drawing.svg(figure)


def _panel(figure: Any, x: str, y: str) -> Any:
    """The one panel of a figure, with a place for a legend at its right."""
    panel = figure.subplots()
    figure.subplots_adjust(left=0.075, right=0.7, top=0.96, bottom=0.15)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    return panel


def _legend(figure: Any, handles: Sequence[Any], lacking: Iterable[str]) -> None:
    """What the marks mean, and below it what there is nothing to draw of."""
    if handles:
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.71, 0.98), frameon=False,
            fontsize=8.5, handlelength=3.2,
        )  # fmt: skip
    if names := list(dict.fromkeys(lacking)):
        shown = "\n".join([f"{EMPTY}:", *names[:12], *(["…"] if len(names) > 12 else [])])
        figure.text(0.725, 0.06, shown, fontsize=7.5, color=GREY, va="bottom")


def _blank(panel: Any) -> None:
    """Says that there is nothing to see."""
    panel.text(
        0.5, 0.5, EMPTY, transform=panel.transAxes, ha="center", va="center", color=GREY, bbox=PAPER
    )
    panel.set_xticks([])
    panel.set_yticks([])


def _percent(values: Iterable[float]) -> list[float]:
    return [100 * value for value in values]


def _rates(figure: Any, judged: Judged, advice: Advice, index: RecordIndex) -> None:
    """Accuracy against the learning rate by scheme: mean and range over seeds, failures as crosses."""
    chosen = judged.claim.figure
    schemes = chosen.schemes if isinstance(chosen, RatesFigure) else ()
    panel = _panel(figure, "learning rate", KNN)
    handles, lacking, tried, failures = [], [], set(), False
    for place, scheme in enumerate(schemes):
        rows = [index.row(advice.experiment, name) for name in advice.rows(scheme)]
        if any(row.missing for row in rows):
            lacking.append(scheme)
            continue
        style = mark(place) | {"linestyle": LINES[place % len(LINES)], "linewidth": 1.3}
        # A little aside, so that ranges do not hide each other.
        aside = 1.025 ** (place - (len(schemes) - 1) / 2)
        points = []
        for row in rows:
            own = row.records[row.seeds[0]].record.cell.recipe.learning_rate
            tried.add(own)
            rate = aside * own
            values = _percent(index.values(row, ACCURACY).values())
            if values:
                points.append((rate, mean(values)))
                panel.plot([rate, rate], [min(values), max(values)], color=style["color"], lw=1.2)
            if len(values) < len(row.seeds):
                failures = True
                panel.plot(
                    rate, 0.02 + 0.03 * place, "x", color=style["color"], markersize=5,
                    transform=panel.get_xaxis_transform(),
                )  # fmt: skip
        panel.plot([x for x, _ in points], [y for _, y in points], **style)
        handles.append(handle(scheme, **style))
    if not handles:
        _blank(panel)
    else:
        panel.set_xscale("log")
        panel.set_xticks(sorted(tried), [f"{rate:g}" for rate in sorted(tried)])
        panel.minorticks_off()
        handles += _controls(panel, judged)
    if failures:
        handles.append(handle("a seed failed", color=GREY, marker="x", linestyle="none"))
    _legend(figure, handles, lacking)


def _controls(panel: Any, judged: Judged) -> Iterator[Any]:
    """Draws lines where the controls are, and yields their entries of the legend."""
    bar = judged.bar or Bar(None, "")
    for label, accuracy, dashes in (
        ("untrained", bar.untrained, (1, 2)), ("raw pixels", bar.pixels, (5, 2)),
    ):  # fmt: skip
        if accuracy is not None:
            style: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "dashes": dashes}
            panel.axhline(100 * accuracy, **style)
            yield handle(label, **style)


def _leakage(figure: Any, judged: Judged, advice: Advice, index: RecordIndex) -> None:
    """Every network's pretext accuracy in one BN group and regrouped: how it was trained by how it is
    measured. The two of a network are joined.
    """
    panel = _panel(figure, "", "pretext accuracy, held-out images, %")
    figure.subplots_adjust(left=0.075, right=0.79, top=0.96, bottom=0.19)
    rows = _rows(panel, judged, advice, index, fontsize=7)
    any_shown = False
    for place, row in enumerate(rows):
        together, apart = (
            {} if row.missing else index.values(row, metric)
            for metric in ("pretext_same_group", "pretext_regrouped")
        )
        seeds = sorted(together.keys() & apart.keys())
        if not seeds:
            _note(panel, place, EMPTY if row.missing else "has no BN groups")
            continue
        any_shown = True
        for number, seed in enumerate(seeds):
            x = place + 0.5 * ((number + 0.5) / len(seeds) - 0.5)
            ends = _percent([apart[seed], together[seed]])
            panel.plot([x, x], ends, color="#aaaaaa", lw=0.9, zorder=1)
            for y, face in zip(ends, ("white", "#333333"), strict=True):
                panel.plot(x, y, "o", color="#333333", markersize=4.5, markerfacecolor=face)
    if not any_shown:
        panel.set_yticks([])
        return
    handles = [
        handle(label, color="#333333", marker="o", linestyle="none", markerfacecolor=face)
        for label, face in (("views in one BN group", "#333333"), ("groups redrawn", "white"))
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.795, 0.98), frameon=False, fontsize=8
    )


def _rows(
    panel: Any, judged: Judged, advice: Advice, index: RecordIndex, fontsize: float
) -> list[RowRecords]:
    """The rows of the claim's arms, each with a place on the axis across."""
    others = [s.entry for s in judged.secondary if s.difference and not s.entry.experiment]
    names = dict.fromkeys(arm for pair in (advice, *others) for arm in (pair.minus, pair.plus))
    rows = [index.row(advice.experiment, name) for name in names]
    labels = [f"{own.row.method}\n{own.row.backbone}\n{own.row.scheme}" for own in rows]
    panel.set_xlim(-0.5, len(rows) - 0.5)
    panel.set_xticks(range(len(rows)), labels, fontsize=fontsize)
    return rows


def _note(panel: Any, place: int, text: str) -> None:
    edge = panel.get_xaxis_transform()
    panel.text(place, 0.5, text, transform=edge, ha="center", color=GREY, fontsize=8)


def _groups(figure: Any, judged: Judged, advice: Advice, index: RecordIndex) -> None:
    """Accuracy against the size of BN's groups; schemes without groups as lines across."""
    chosen = judged.claim.figure
    if not isinstance(chosen, GroupsFigure):
        return
    panel = _panel(figure, f"samples in a BN group (batch size {chosen.batch_size})", KNN)
    sizes = dict(sorted(chosen.schemes.items(), key=lambda item: item[1]))
    found, lacking = {}, []
    for scheme in (*sizes, *chosen.flat):
        row = index.row(advice.experiment, str(Row(chosen.recipe, chosen.backbone, scheme)))
        found[scheme] = _percent(index.values(row, ACCURACY).values())
        if row.missing or not found[scheme]:
            lacking.append(scheme)
    handles = []
    if grouped := {scheme: size for scheme, size in sizes.items() if scheme not in lacking}:
        for scheme, size in grouped.items():
            values = found[scheme]
            panel.plot([size] * len(values), values, "_", color=GREY, markersize=8)
        style = mark(0) | {"linestyle": "-", "linewidth": 1.4}
        panel.plot(list(grouped.values()), [mean(found[scheme]) for scheme in grouped], **style)
        handles.append(handle("BN, by group (dashes: seeds)", **style))
    for place, scheme in enumerate(chosen.flat, 1):
        if scheme not in lacking:
            values, colour = found[scheme], mark(place)["color"]
            line = {"linestyle": LINES[place % len(LINES)], "linewidth": 1.4, "color": colour}
            panel.axhline(mean(values), **line)
            panel.axhspan(min(values), max(values), color=colour, alpha=0.12, lw=0)
            handles.append(handle(f"{scheme} (band: seeds)", **line))
    if handles:
        ends = list(sizes.values())
        panel.set_xscale("log", base=2)
        panel.set_xlim(ends[0] / 1.3, ends[-1] * 1.3)
        panel.set_xticks(ends, [str(size) for size in ends])
        panel.minorticks_off()
        handles += _controls(panel, judged)
    else:
        _blank(panel)
    _legend(figure, handles, lacking)


def _arms(figure: Any, judged: Judged, advice: Advice, index: RecordIndex) -> None:
    """Every arm of the claim: its seeds, joined from arm to arm, and its mean."""
    panel = _panel(figure, "", f"{METRICS[advice.metric]}, %")
    figure.subplots_adjust(left=0.075, right=0.985, top=0.96, bottom=0.19)
    known: list[tuple[RowRecords, dict[int, float]]] = []
    for place, row in enumerate(_rows(panel, judged, advice, index, fontsize=8)):
        found = {} if row.missing else index.values(row, advice.metric)
        known.append((row, {seed: 100 * value for seed, value in found.items()}))
        if not found:
            _note(
                panel, place, EMPTY if row.missing else ", ".join(sorted(set(row.failed.values())))
            )
        elif len(found) == len(row.seeds):
            centre = mean(_percent(found.values()))
            panel.plot([place - 0.18, place + 0.18], [centre] * 2, "k-", lw=2)
    for place, (row, values) in enumerate(known):
        before, earlier = known[place - 1] if place else (row, {})
        joined = values.keys() & earlier.keys()
        for seed in sorted(joined) if before.row.backbone == row.row.backbone else ():
            panel.plot([place - 1, place], [earlier[seed], values[seed]], color="#bbbbbb", lw=0.8)
        panel.plot([place] * len(values), list(values.values()), "o", color="#333333", markersize=4)
    if not any(values for _, values in known):
        panel.set_yticks([])
