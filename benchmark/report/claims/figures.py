"""One figure for each claim from the records that exist, readable without colour.

A row that lacks the record of a seed is not drawn: the figure has a note instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

from benchmark.analysis.claims.arms import ACCURACY, Bar
from benchmark.analysis.claims.judge import Judged
from benchmark.analysis.claims.schema import Advice, GroupsFigure, RatesFigure
from benchmark.planning import plan
from benchmark.planning.cell import Row
from benchmark.report import drawing
from benchmark.report.claims.formatting import METRICS
from benchmark.report.drawing import GREY, PAPER, handle, mark
from benchmark.results.rows import RecordIndex, RowRecords

HEIGHT = 3.6
"""Inches."""

LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 3)))
"""Line styles that can be told apart."""

EMPTY = "no records yet"

LIGHT, DARK = 0.96, 0.55
"""Greys of the lowest and the highest accuracy; on both, black letters can be read."""

KNN = "kNN accuracy, %, statistics re-estimated"


def drawn(judged: Judged, index: RecordIndex) -> bytes:
    """The figure of a claim as SVG."""
    from matplotlib.figure import Figure

    kinds: dict[str, Callable[[Any, Judged, Advice, RecordIndex], None]] = {
        "rates": _rates,
        "groups": _groups,
        "leakage": _leakage,
        "placement": _placement,
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
    """The only panel of a figure, with space for a legend at its right."""
    panel = figure.subplots()
    figure.subplots_adjust(left=0.075, right=0.7, top=0.96, bottom=0.15)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    return panel


def _legend(figure: Any, handles: Sequence[Any], lacking: Iterable[str]) -> None:
    """The meaning of the marks, and below it the names without records."""
    if handles:
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.71, 0.98), frameon=False,
            fontsize=8.5, handlelength=3.2,
        )  # fmt: skip
    if names := list(dict.fromkeys(lacking)):
        shown = "\n".join([f"{EMPTY}:", *names[:12], *(["…"] if len(names) > 12 else [])])
        figure.text(0.725, 0.06, shown, fontsize=7.5, color=GREY, va="bottom")


def _blank(panel: Any) -> None:
    """Notes that there is nothing to draw."""
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
    every = chosen.schemes if isinstance(chosen, RatesFigure) else ()
    # A track need not have what is shown beside the arms.
    schemes = [name for name in every if index.has(advice.experiment, advice.rows(name))]
    panel = _panel(figure, "learning rate", KNN)
    handles, lacking, tried, failures = [], [], set(), False
    for place, scheme in enumerate(schemes):
        rows = [index.row(advice.experiment, name) for name in advice.rows(scheme)]
        if any(row.missing for row in rows):
            lacking.append(scheme)
            continue
        style = mark(place) | {"linestyle": LINES[place % len(LINES)], "linewidth": 1.3}
        # Shifted a little, so that ranges do not hide each other.
        aside = 1.025 ** (place - (len(schemes) - 1) / 2)
        points = []
        for row in rows:
            own = row.records[row.seeds[0]].record.cell.recipe.learning_rate
            tried.add(own)
            rate = aside * own
            values = _percent(index.values(row, ACCURACY).values())
            if values:
                points.append((rate, fmean(values)))
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
    """Draws lines at the accuracies of the controls, and yields their entries of the legend."""
    bar = judged.bar or Bar(None, "")
    for label, accuracy, dashes in (
        ("untrained", bar.untrained, (1, 2)), ("raw pixels", bar.pixels, (5, 2)),
    ):  # fmt: skip
        if accuracy is not None:
            style: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "dashes": dashes}
            panel.axhline(100 * accuracy, **style)
            yield handle(label, **style)


def _leakage(figure: Any, judged: Judged, advice: Advice, index: RecordIndex) -> None:
    """The pretext accuracy of every network in one BN group and regrouped, joined by a line."""
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
    """The rows of the claim's arms, each with a place on the horizontal axis."""
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
    """Accuracy against the size of BN's groups; schemes without groups are horizontal lines."""
    chosen = judged.claim.figure
    if not isinstance(chosen, GroupsFigure):
        return
    recipe = index.params.methods[chosen.recipe]
    own = getattr(recipe, "batch_size", None) or index.params.training.batch_size
    panel = _panel(figure, f"samples in a BN group (batch size {own})", KNN)
    # The whole batch of the claims is that of the main track.
    whole = {name: own if n == chosen.batch_size else n for name, n in chosen.schemes.items()}
    sizes = dict(sorted(whole.items(), key=lambda item: item[1]))
    accuracies, lacking = {}, []
    for scheme in (*sizes, *chosen.flat):
        name = str(Row(chosen.recipe, chosen.backbone, scheme))
        if not index.has(advice.experiment, [name]):
            continue  # as above: beside the arms
        row = index.row(advice.experiment, name)
        values = _percent(index.values(row, ACCURACY).values())
        if row.missing or not values:
            lacking.append(scheme)
        else:
            accuracies[scheme] = values
    handles = []
    if grouped := [(n, accuracies[name]) for name, n in sizes.items() if name in accuracies]:
        for size, values in grouped:
            panel.plot([size] * len(values), values, "_", color=GREY, markersize=8)
        style = mark(0) | {"linestyle": "-", "linewidth": 1.4}
        panel.plot([size for size, _ in grouped], [fmean(values) for _, values in grouped], **style)
        handles.append(handle("BN, by group (dashes: seeds)", **style))
    for place, scheme in enumerate(chosen.flat, 1):
        if scheme in accuracies:
            values, colour = accuracies[scheme], mark(place)["color"]
            line = {"linestyle": LINES[place % len(LINES)], "linewidth": 1.4, "color": colour}
            panel.axhline(fmean(values), **line)
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
    """The seeds of every arm of the claim, joined from arm to arm, and its mean."""
    panel = _panel(figure, "", f"{METRICS[advice.metric]}, %")
    figure.subplots_adjust(left=0.075, right=0.985, top=0.96, bottom=0.19)
    known: list[tuple[RowRecords, dict[int, float]]] = []
    for place, row in enumerate(_rows(panel, judged, advice, index, fontsize=8)):
        measured = {} if row.missing else index.values(row, advice.metric)
        values = {seed: 100 * value for seed, value in measured.items()}
        known.append((row, values))
        if not values:
            failed = ", ".join(sorted(set(row.failed.values())))
            _note(panel, place, EMPTY if row.missing else failed)
        elif len(values) == len(row.seeds):
            panel.plot([place - 0.18, place + 0.18], [fmean(values.values())] * 2, "k-", lw=2)
    for place, (row, values) in enumerate(known):
        before, earlier = known[place - 1] if place else (row, {})
        joined = values.keys() & earlier.keys()
        for seed in sorted(joined) if before.row.backbone == row.row.backbone else ():
            panel.plot([place - 1, place], [earlier[seed], values[seed]], color="#bbbbbb", lw=0.8)
        panel.plot([place] * len(values), list(values.values()), "o", color="#333333", markersize=4)
    if not any(values for _, values in known):
        panel.set_yticks([])


def _placement(figure: Any, judged: Judged, advice: Advice, index: RecordIndex) -> None:
    """A heat map for each trained recipe: accuracy by the norm of the encoder and that of the heads.

    Hatched tiles have no accuracy: no such row was asked for, records are missing, or seeds failed.
    """
    from matplotlib.patches import Rectangle

    rows = {
        row: own
        for row, own in index.rows(advice.experiment).items()
        if plan.is_trained(index.params, row.method)
    }
    norms = {row: _norms(index, row) for row in rows}
    known = {row: index.mean(own, ACCURACY) for row, own in rows.items()}
    means = {row: 100 * value for row, value in known.items() if value is not None}
    recipes = list(dict.fromkeys((row.method, row.backbone) for row in rows))
    panels = figure.subplots(1, len(recipes), squeeze=False)[0]
    figure.subplots_adjust(left=0.1, right=0.985, top=0.88, bottom=0.17, wspace=0.45)
    low, high = min(means.values(), default=0.0), max(means.values(), default=0.0)
    for panel, recipe in zip(panels, recipes, strict=True):
        own = [row for row in rows if (row.method, row.backbone) == recipe]
        encoders = list(dict.fromkeys(norms[row][0] for row in own))
        heads = list(dict.fromkeys(norms[row][1] for row in own))
        panel.set_title(", ".join(recipe), loc="left", fontsize=10, fontweight="bold")
        panel.set_xticks(range(len(heads)), heads)
        panel.set_yticks(range(len(encoders)), encoders)
        panel.set_xlim(-0.5, len(heads) - 0.5)
        panel.set_ylim(len(encoders) - 0.5, -0.5)
        panel.tick_params(length=0)
        panel.set_xlabel("norm of the heads")
        if panel is panels[0]:
            panel.set_ylabel("norm of the encoder")
        for y, encoder in enumerate(encoders):
            for x, head in enumerate(heads):
                here = [row for row in own if norms[row] == (encoder, head)]
                shade = next((means[row] for row in here if row in means), None)
                share = (shade - low) / (high - low) if shade is not None and high > low else 0.0
                grey = str(LIGHT - (LIGHT - DARK) * share)
                tile = Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, edgecolor="#bbbbbb", linewidth=0.8,
                    facecolor="white" if shade is None else grey,
                    hatch="////" if shade is None else None,
                )  # fmt: skip
                panel.add_patch(tile)
                notes = [_outcome(rows[row], means.get(row)) for row in here]
                panel.text(
                    x, y, "\n".join(notes), ha="center", va="center", fontsize=8.5,
                    color="black" if shade is not None else GREY, bbox=None if shade else PAPER,
                )  # fmt: skip


def _norms(index: RecordIndex, row: Row) -> tuple[str, str]:
    """The names of the encoder's norm and of the heads' norms."""
    norms = {
        name: str(spec["norm"]) for name, spec in plan.section_norms(index.params, row).items()
    }
    encoder = norms.pop("backbone")
    return encoder, ", ".join(dict.fromkeys(norms.values())) or "no head"


def _outcome(own: RowRecords, accuracy: float | None) -> str:
    if own.missing:
        return "no records\nyet"
    if accuracy is None:
        return ", ".join(sorted(set(own.failed.values()))) or "no finite\nembedding"
    return f"{accuracy:.1f} %\n{len(own.seeds)} seeds"
