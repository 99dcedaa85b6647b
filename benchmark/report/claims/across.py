"""Writes the verdicts of all tracks side by side, and the page "What to believe"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from benchmark.analysis.claims import across, tracks
from benchmark.analysis.claims.across import Across, Agreement, If, Told
from benchmark.analysis.claims.rules import Shown
from benchmark.analysis.claims.schema import Description, Metric, Rule, Verdict
from benchmark.analysis.claims.tracks import TrackVerdicts
from benchmark.analysis.statistics import Measured
from benchmark.core import canonical_json
from benchmark.report.claims import believe, formatting, sentences
from benchmark.report.document import Document, at, inside, text
from benchmark.report.markdown import NONE, escape, render

SCHEMA = 1
"""Version of the JSON layout; see docs/claims.md."""


class Track(Document):
    """A track whose verdicts are compared."""

    track: str
    title: str
    scale: str | None


class View(Document):
    """A claim on one track. Null estimates: no number is given."""

    track: str
    verdict: Verdict
    shown: Shown | None
    why: str | None
    mean: Annotated[Measured | None, inside("estimate")] = at("finding")
    low: Annotated[Measured | None, inside("low")] = at("finding")
    high: Annotated[Measured | None, inside("high")] = at("finding")
    n: Annotated[int | None, inside("n")] = at("finding")
    at_least: bool
    unlearnt: tuple[str, ...]
    steps: dict[If, int] | None
    images: If | None
    published: dict[str, int]


class Claim(Document):
    """A claim across tracks."""

    id: str = at("claim", "id")
    title: str = at("claim", "title")
    sentence: str = at("claim", "sentence")
    description: Description | None = at("claim", "description")
    question: str = at("advice", "question")
    metric: Metric = at("advice", "metric")
    rule: Rule = at("advice", "rule")
    margin: float = at("advice", "margin")
    agreement: Agreement
    tracks: tuple[View, ...] = at("views")
    gaps: tuple[across.Gap, ...]


class SideBySide(Document):
    """A whole file."""

    layout: int = Field(serialization_alias="schema")
    """Version of this layout."""
    version: int
    level: float
    comparisons: int
    tracks: tuple[Track, ...]
    claims: tuple[Claim, ...]


def write(root: Path) -> list[Path]:
    """Writes the files of `contents` and returns their paths."""
    found = contents(root)
    for path, content in found.items():
        canonical_json.write(path, content)
    return list(found)


def contents(root: Path) -> dict[Path, str]:
    """The texts of `results/verdicts.{md,json}` and `results/what-to-believe.md`.

    They depend only on the tracks' published documents and `believe.yaml`. Raises UserError as
    `tracks.read` and `sentences.read` do.
    """
    documents = tracks.read(root)
    claims = across.compare(documents)
    written = sentences.read(root, [entry.claim.id for entry in claims])
    folder = root / "results"
    return {
        folder / "verdicts.md": markdown(documents, claims),
        folder / "verdicts.json": json(documents, claims),
        folder / "what-to-believe.md": believe.markdown(documents, claims, written),
    }


def json(documents: Sequence[TrackVerdicts], claims: Sequence[Across]) -> str:
    """The text of `verdicts.json`."""
    first = documents[0]
    return text(
        SideBySide(
            layout=SCHEMA,
            version=first.version,
            level=first.level,
            comparisons=first.comparisons,
            tracks=tuple(Track.model_validate(document) for document in documents),
            claims=tuple(Claim.model_validate(entry) for entry in claims),
        )
    )


def markdown(documents: Sequence[TrackVerdicts], claims: Sequence[Across]) -> str:
    """The page of verdicts side by side."""
    return render(
        "verdicts.md.j2",
        documents=documents,
        first=documents[0],
        head=[
            "claim",
            "what the methods do",
            *(f"on `{document.track}`" for document in documents),
            "agreement",
            "difference between the tracks",
        ],
        table=[_line(entry) for entry in claims],
        firm=[_firm(entry, view) for entry in claims for view in entry.decided],
        METRICS=formatting.METRICS,
    )


def _line(entry: Across) -> list[str]:
    claim, metric = entry.claim, entry.advice.metric
    between = [
        f"{formatting.amount(gap.mean, metric)} ({formatting.amount(gap.low, metric)} to "
        f"{formatting.amount(gap.high, metric)}), `{gap.tracks[0]}` minus `{gap.tracks[1]}`"
        + (": the estimates **differ**" if gap.significant else "")
        for gap in entry.gaps
    ]
    return [
        f'<a id="{claim.id.lower()}"></a>{escape(claim.id)} {escape(claim.title)}',
        claim.description.verdict if claim.description else NONE,
        *(_view(entry, view) for view in entry.views),
        believe.agreed(entry),
        "<br>".join(between) or NONE,
    ]


def _view(entry: Across, view: Told) -> str:
    link = f"[{view.verdict}]({view.track}/claims.md#{entry.claim.id.lower()})"
    said = f"**{link}**: {believe.SHOWN[view.shown] if view.shown else view.why}"
    if view.finding is None:
        return said
    return f"{said}<br>{believe.estimate(entry, view)}, {view.finding.n} seeds"


def _firm(entry: Across, view: Told) -> list[str]:
    """A line of the table of what would change a verdict."""
    steps = NONE
    if view.steps:
        parts = view.steps.items()
        steps = ", ".join(f"{count} {believe.SHOWN[found]}" for found, count in parts)
    published = ", ".join(
        f"{count} {escape(word)}" for word, count in sorted(view.published.items())
    )
    return [
        escape(entry.claim.id), f"`{view.track}`", believe.SHOWN[view.shown or "undetermined"], steps,
        believe.SHOWN[view.images] if view.images else NONE, published or NONE,
    ]  # fmt: skip
