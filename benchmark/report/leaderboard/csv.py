"""The leaderboard for spreadsheets: accuracies in percent, empty if there is none."""

from __future__ import annotations

import csv as csv_module
import io
from typing import Any

from benchmark.analysis.leaderboard import Entry, Setting, Table
from benchmark.analysis.statistics import DIGITS, rounded
from benchmark.report.leaderboard.formatting import counts, environments, overrides

RULE = "mean ± t(.975; df) · s / √n; s within rows pooled over rows"
"""The rule of the intervals, short enough for a cell."""

MEASURED = ("backbone", "projector")
"""The sections that the diagnostics measure."""


def csv(table: Table) -> str:
    """The text of `<experiment>.csv`."""
    rows = [_row(entry) for entry in table.entries]
    stated = [overrides(entry) for entry in table.entries]
    if any(stated):
        rows = [row | {"overrides": own} for row, own in zip(rows, stated, strict=True)]
    out = io.StringIO()
    writer = csv_module.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": entry.rank,
        "backbone": entry.row.backbone,
        "method": entry.row.method,
        "scheme": entry.row.scheme,
        "control": _yes(entry.control),
        "learnt": _yes(entry.learnt),
        "best_scheme": _yes(entry.best),
        "tied_for_best": _yes(entry.tied),
        "seeds": " ".join(map(str, entry.seeds)),
        "status": entry.status,
        "statuses": counts(entry),
    }
    for name, estimate in entry.estimates.items():
        for suffix, part in (("", "mean"), ("_low", "low"), ("_high", "high"), ("_sd", "sd")):
            row[f"{name}_percent{suffix}"] = _percent(getattr(estimate, part) if estimate else None)
    rates = entry.rates
    for which in ("tuned", "default"):
        setting: Setting | None = getattr(rates, which) if rates else None
        row[f"rate_{which}"] = setting.rate if setting else None
        row[f"weight_decay_{which}"] = setting.weight_decay if setting else None
        row[f"validation_percent_{which}"] = _percent(setting.validation if setting else None)
    row["rate_at_edge"] = _yes(rates.at_edge if rates else None)
    row["linear_penalty_at_edge"] = _yes(entry.penalty_at_edge)
    for name, by_section in (("spread", entry.collapse), ("relative_update", entry.updates)):
        row |= {f"{name}_{section}": _rounded(by_section.get(section)) for section in MEASURED}
    return row | {
        "parameters": entry.cost.parameters,
        "images": entry.cost.images,
        "tflop": _rounded(entry.cost.tflop),
        "environments": environments(entry),
        "interval": RULE,
    }


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.{DIGITS - 2}f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)
