"""The leaderboard as one figure: accuracy by method and scheme, a panel for each backbone.

An SVG with outlined text and fixed identifiers, so that the same records give the same bytes.
"""

from __future__ import annotations

import math
from typing import Any

from benchmark.analysis.leaderboard import CONTROLS, Entry, Table
from benchmark.components.facts import PIXELS
from benchmark.report import drawing
from benchmark.report.drawing import GREY, NAMES, PAPER, WIDTH, handle, mark
from benchmark.results.metrics import RANKING

RIGHT = 0.985
"""Where the last panel ends, as a share of the width."""

ROW = 0.155
"""Inches between two schemes of a method."""

LEGEND_COLUMNS = 6

PIXEL_LINE: dict[str, Any] = {"color": "#111111", "linewidth": 1.1, "dashes": (3, 2.2)}
"""The line of raw pixels."""


def accuracy(table: Table) -> bytes:
    """kNN accuracy with its interval by method and scheme, as SVG."""
    from matplotlib.figure import Figure

    with drawing.drawing("leaderboard"):
        lines = _lines(table)
        height = max(sum(len(own) + 1 for own in lines.values()), 2) * ROW
        above = 0.52 + 0.2 * math.ceil((len(table.schemes) + 1) / LEGEND_COLUMNS)
        total = height + above + 0.53
        figure = Figure(figsize=(WIDTH, total))
        panels = figure.subplots(1, len(table.backbones), sharey=True, sharex=True, squeeze=False)[
            0
        ]
        longest = max((len(entry.title) for entry in table.entries), default=0)
        left = max(0.11, 0.012 + 0.0083 * longest)
        figure.subplots_adjust(
            left=left, right=RIGHT, wspace=0.07,
            top=1 - above / total, bottom=0.53 / total,
        )  # fmt: skip
        for panel, backbone in zip(panels, table.backbones, strict=True):
            _panel(panel, table, backbone, lines)
        _scale(panels[0], table)
        near = table.neighbours[0]
        figure.supxlabel(
            f"{near}-nearest-neighbour accuracy on the test split, % (mean and 95 % interval)",
            fontsize=9.5, x=(left + RIGHT) / 2, y=0.012, va="bottom",
        )  # fmt: skip
        _legend(figure, panels[0], table)
        return drawing.svg(figure)


def _lines(table: Table) -> dict[str, dict[str, int]]:
    """The line of each method and scheme, from the top, the same in every panel.

    The best methods are first, then the controls. A scheme that no backbone has takes no line; one
    line is left free between methods.
    """
    order: dict[str, tuple[float, str]] = {}
    schemes: dict[str, set[str]] = {}
    for entry in table.entries:
        if entry.row.backbone == PIXELS:
            continue
        method, estimate = entry.row.method, entry.estimates[RANKING]
        schemes.setdefault(method, set()).add(entry.row.scheme)
        here = (-estimate.mean if estimate else 1.0, method)
        if entry.control:
            here = (2.0 + CONTROLS.index(entry.method), "")
        order[method] = min(here, order.get(method, here))
    lines: dict[str, dict[str, int]] = {}
    line = 0
    for method in sorted(schemes, key=lambda method: order[method]):
        shown = [scheme for scheme in table.schemes if scheme in schemes[method]]
        lines[method] = {scheme: line + place for place, scheme in enumerate(shown)}
        line += len(shown) + 1
    return lines


def _panel(panel: Any, table: Table, backbone: str, lines: dict[str, dict[str, int]]) -> None:
    panel.set_title(
        NAMES.get(backbone, backbone), loc="left", fontsize=11, fontweight="bold", pad=7
    )
    panel.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    controls = {entry.row.method for entry in table.entries if entry.control}
    titles = {entry.row.method: entry.title for entry in table.entries}
    ends = {method: (min(own.values()), max(own.values())) for method, own in lines.items()}
    panel.set_yticks([sum(end) / 2 for end in ends.values()], [titles[m] for m in lines])
    panel.set_ylim(max((last for _, last in ends.values()), default=0) + 1, -1)
    for method, (first, last) in ends.items():
        if method in controls:
            panel.axhspan(first - 1, last + 1, color="#f3f3f3", linewidth=0, zorder=0)
        if first:
            panel.axhline(first - 1, color="#cccccc", linewidth=0.6, zorder=1)
    for entry in table.of(backbone):
        if entry.row.backbone != PIXELS:
            style = mark(table.schemes.index(entry.row.scheme))
            _point(panel, entry, lines[entry.row.method][entry.row.scheme], style)
        elif estimate := entry.estimates[RANKING]:
            panel.axvline(100 * estimate.mean, zorder=2, **PIXEL_LINE)


def _point(panel: Any, entry: Entry, line: int, style: dict[str, Any]) -> None:
    estimate, colour = entry.estimates[RANKING], style["color"]
    failed = ", ".join(f"{n} {status}" for status, n in entry.counts.items() if status != "done")
    if estimate is None:
        # At the left edge, as there is no accuracy that gives a place.
        edge = panel.get_yaxis_transform()
        panel.plot(0.012, line, "x", color=colour, markersize=5, transform=edge)
        panel.text(
            0.03, line, f"{entry.row.scheme}: {failed or 'no finite embedding'}", transform=edge,
            va="center", fontsize=7.5, color=GREY, bbox=PAPER, zorder=3,
        )  # fmt: skip
        return
    if estimate.low is not None and estimate.high is not None:
        panel.plot(
            [100 * estimate.low, 100 * estimate.high], [line, line],
            color=colour, linewidth=1.4, solid_capstyle="butt", zorder=3,
        )  # fmt: skip
    panel.plot(100 * estimate.mean, line, linestyle="none", zorder=4, **style)
    if failed:
        panel.annotate(
            failed, (100 * max(estimate.mean, estimate.high or 0), line), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=7.5, color=GREY,
        )  # fmt: skip


def _scale(panel: Any, table: Table) -> None:
    """One scale for all panels, from the lowest interval to the highest."""
    ends = [
        100 * end
        for estimate in (entry.estimates[RANKING] for entry in table.entries)
        if estimate
        for end in (estimate.low, estimate.mean, estimate.high)
        if end is not None
    ]
    low, high = (min(ends), max(ends)) if ends else (0.0, 100.0)
    margin = max(0.04 * (high - low), 0.5)
    panel.set_xlim(low - margin, high + margin)


def _legend(figure: Any, panel: Any, table: Table) -> None:
    handles = [
        handle(scheme, linewidth=1.4, **mark(place)) for place, scheme in enumerate(table.schemes)
    ]
    if any(entry.row.backbone == PIXELS and entry.estimates[RANKING] for entry in table.entries):
        handles.append(handle("raw pixels", **PIXEL_LINE))
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(0.99, 0.995),
        ncols=min(len(handles), LEGEND_COLUMNS), frameon=False, fontsize=9,
        handlelength=1.9, columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip
