"""The verdicts for programs, as documented in docs/claims.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.analysis.claims.arms import Arm
from benchmark.analysis.claims.diagnostics import Halfway, Leak
from benchmark.analysis.claims.differences import Difference
from benchmark.analysis.claims.judge import Judged
from benchmark.analysis.claims.schema import Advice, Claims
from benchmark.analysis.claims.sensitivity import Sensitivity
from benchmark.analysis.contrasts import Finding
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.report.claims.formatting import scale
from benchmark.report.leaderboard.tables import rounded

SCHEMA = 2
"""Version of the JSON layout; see docs/claims.md."""


def json(
    claims: Claims, params: Params, found: tuple[Judged, ...], literature: Mapping[str, str]
) -> str:
    """All claims; `literature` says of each published result how it compares."""
    return canonical_json.pretty(
        {
            "schema": SCHEMA,
            "version": claims.version,
            "track": params.track,
            "title": params.title,
            "scale": scale(params.track),
            "knn_k": list(params.evaluation.knn_k),
            "level": claims.level,
            "comparisons": claims.comparisons,
            "margins": dict(claims.margins),
            "stable": claims.stable,
            "learnt": claims.learnt,
            "claims": [_claim(judged, claims, params.track, literature) for judged in found],
        }
    )


def _claim(
    judged: Judged, claims: Claims, track: str, literature: Mapping[str, str]
) -> dict[str, Any]:
    claim = judged.claim
    return {
        "id": judged.name,
        "title": claim.title,
        "sentence": claim.sentence,
        "description": claim.description and claim.description.model_dump(mode="json"),
        "advice": claim.advice and _advice(judged, claim.advice, claims, track),
        "changes": claim.changes,
        "literature": {name: literature[name] for name in claim.literature},
    }


def _advice(judged: Judged, advice: Advice, claims: Claims, track: str) -> dict[str, Any]:
    found, bar = judged.difference, judged.bar
    return {
        "verdict": judged.verdict,
        "reasons": list(judged.reasons),
        **advice.model_dump(mode="json", exclude={"confirmed_by"}),
        "margin": claims.margins.get(advice.metric),
        "estimate": found and found.finding and _finding(found.finding),
        "at_least": judged.at_least,
        "correlation": found and rounded(found.correlation),
        "seeds": _seeds(found) if found else [],
        "arms": found and {"plus": _arm(found.plus), "minus": _arm(found.minus)},
        "bar": bar
        and {
            "accuracy": rounded(bar.least),
            "untrained": rounded(bar.untrained),
            "raw_pixels": rounded(bar.pixels),
            "row": bar.row,
        },
        "planned": judged.planned
        and {
            "seeds": judged.planned.seeds,
            "for_equivalence": judged.planned.for_equivalence,
            "for_difference": judged.planned.for_difference,
            "reachable": judged.planned.reachable,
        },
        "sensitivity": judged.sensitivity and _sensitivity(judged.sensitivity),
        "other_images": judged.images
        and {
            "se": rounded(judged.images.se),
            "low": rounded(judged.images.finding.low),
            "high": rounded(judged.images.finding.high),
            "verdict": judged.images.verdict,
        },
        "running_statistics": judged.plain and _described(judged.plain),
        "confirmed_by": judged.confirmation and _described(judged.confirmation),
        "beside": [
            {
                "text": entry.text,
                "experiment": advice.beside(entry).experiment,
                "plus": entry.plus,
                "minus": entry.minus,
            }
            | (_described(other) if other else {"lacking": ["not on this track"]})
            for entry, other in judged.beside
        ],
        "leakage": [_leak(leak) for leak in judged.leaks],
        "halfway": judged.halfway and _halfway(judged.halfway),
        "cells": list(
            {
                cell["name"]: cell
                for own in (found.arms if found else ())
                for cell in _cells(own, track)
            }.values()
        ),
    }


def _sensitivity(found: Sensitivity) -> dict[str, Any]:
    return {
        "summary": found.summary,
        "steps": [
            {
                "side": step.side,
                "arm": step.arm,
                "direction": step.direction,
                "learning_rate": step.rate,
                "change": rounded(step.change),
                "estimate": rounded(step.estimate),
                "verdict": step.verdict,
            }
            for step in found.steps
        ],
    }


def _finding(found: Finding) -> dict[str, Any]:
    return {
        "mean": rounded(found.estimate),
        "low": rounded(found.low),
        "high": rounded(found.high),
        "se": rounded(found.se),
        "df": found.df,
        "p": _chance(found.p),
        "p_adjusted": _chance(found.p_adjusted),
        "significant": found.significant,
        "p_equivalence": _chance(found.p_equivalence),
        "equivalent": found.equivalent,
        "detectable": rounded(found.detectable),
        "n": found.n,
        "own_sd": rounded(found.own_sd),
        "pooled_sd": rounded(found.pooled_sd),
        "pooled": found.pooled,
    }


def _chance(p: float | None) -> float | None:
    """Three significant digits: a small p is not nothing."""
    return None if p is None else float(f"{p:.3g}")


def _described(found: Difference) -> dict[str, Any]:
    """A difference that decides nothing: no p, no significance."""
    finding = found.finding
    return {
        "plus": found.plus.name,
        "minus": found.minus.name,
        "mean": finding and rounded(finding.estimate),
        "low": finding and rounded(finding.low),
        "high": finding and rounded(finding.high),
        "n": finding.n if finding else 0,
        "lacking": list(found.lacking),
    }


def _seeds(found: Difference) -> list[dict[str, Any]]:
    """The paired values, and their differences where something rests on them."""
    rows = []
    for seed in found.seeds:
        plus, minus = (own.values.get(seed) for own in found.arms)
        gap = None if found.finding is None or plus is None or minus is None else plus - minus
        rows.append(
            {
                "seed": seed,
                "plus": rounded(plus),
                "minus": rounded(minus),
                "difference": rounded(gap),
            }
        )
    return rows


def _arm(own: Arm) -> dict[str, Any]:
    return {
        "name": own.name,
        "metric": own.metric,
        "rows": [str(row.row) for row in own.rows],
        "accuracy": rounded(own.accuracy),
        "learnt": own.learnt,
        # Exact: what was swept, not what was measured.
        "learning_rate": own.rows[0].rate if len(own.rows) == 1 else None,
        "at_edge": own.at_edge,
    }


def _leak(found: Leak) -> dict[str, Any]:
    return {
        "row": found.row,
        "pretext_same_group": rounded(found.together),
        "pretext_regrouped": rounded(found.apart),
        "swap_excess": rounded(found.excess),
        "batch_dependence": rounded(found.batch_dependence),
        "same_group": rounded(found.same_group),
        "same_group_chance": rounded(found.same_group_chance),
    }


def _halfway(found: Halfway) -> dict[str, Any]:
    return {
        "accuracy": rounded(found.target),
        "schemes": [
            {
                "scheme": speed.scheme,
                "learning_rate": speed.rate,
                "accuracy": rounded(speed.accuracy),
                "images": [round(count) for count in speed.images],
                "at_most": speed.at_most,
                "seeds": speed.seeds,
            }
            for speed in found.speeds
        ],
    }


def _cells(own: Arm, track: str) -> list[dict[str, Any]]:
    """Every cell of an arm, those without a record too."""
    cells = []
    for row in own.rows:
        for seed in own.seeds:
            entry = row.records.get(seed)
            cells.append(
                {
                    "name": f"{track}/{row.experiment}/{row.row}-s{seed}",
                    "status": entry.record.status if entry else "missing",
                    "sha256": entry.checksum if entry else None,
                    "marks": list(row.marks.get(seed, ())),
                }
            )
    return cells
