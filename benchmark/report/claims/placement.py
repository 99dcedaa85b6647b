"""The figure of an experiment about sections: accuracy by the norms of encoder and heads."""

from __future__ import annotations

from typing import Any

from benchmark.analysis.claims.arms import ACCURACY
from benchmark.planning import plan
from benchmark.planning.cell import Row
from benchmark.report.drawing import GREY, PAPER
from benchmark.results.rows import RecordIndex, RowRecords

LIGHT, DARK = 0.96, 0.55
"""Greys of the lowest and the highest accuracy; on both, black letters can be read."""


def placement(figure: Any, index: RecordIndex, experiment: str) -> None:
    """Draws a heat map for each trained recipe: rows are encoder norms, columns head norms.

    Hatched cells have no accuracy: no such row was asked for, records are missing, or seeds failed.
    """
    rows = {
        row: own
        for row, own in index.rows(experiment).items()
        if plan.is_trained(index.params, row.method)
    }
    norms = {row: _norms(index, row) for row in rows}
    known = {row: index.mean(found, ACCURACY) for row, found in rows.items()}
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
                _tile(panel, x, y, None if shade is None else grey)
                notes = [_note(rows[row], means.get(row)) for row in here]
                panel.text(
                    x, y, "\n".join(notes), ha="center", va="center", fontsize=8.5,
                    color="black" if shade is not None else GREY, bbox=None if shade else PAPER,
                )  # fmt: skip


def _norms(index: RecordIndex, row: Row) -> tuple[str, str]:
    """The names of the encoder's norm and of the heads', which may be several or none."""
    found = plan.section_norms(index.params, row)
    heads = dict.fromkeys(spec["norm"] for section, spec in found.items() if section != "backbone")
    return str(found["backbone"]["norm"]), ", ".join(heads) or "no head"


def _note(own: RowRecords, accuracy: float | None) -> str:
    if own.missing:
        return "no records\nyet"
    if accuracy is None:
        return ", ".join(sorted(set(own.failed.values()))) or "no finite\nembedding"
    return f"{accuracy:.1f} %\n{len(own.seeds)} seeds"


def _tile(panel: Any, x: int, y: int, grey: str | None) -> None:
    from matplotlib.patches import Rectangle

    style: dict[str, Any] = {"facecolor": grey} if grey else {"facecolor": "white", "hatch": "////"}
    panel.add_patch(
        Rectangle((x - 0.5, y - 0.5), 1, 1, edgecolor="#bbbbbb", linewidth=0.8, **style)
    )
