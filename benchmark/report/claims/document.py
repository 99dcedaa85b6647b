"""The verdicts for programs, as documented in docs/claims.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator, Field

from benchmark.analysis.claims.arms import Bar
from benchmark.analysis.claims.diagnostics import Halfway, Leak
from benchmark.analysis.claims.differences import Cell, Paired
from benchmark.analysis.claims.judge import Judged, Planned, Secondary
from benchmark.analysis.claims.schema import Claims, Description, Metric, Pilot, Rule, Verdict
from benchmark.analysis.claims.sensitivity import Sensitivity
from benchmark.analysis.claims.tracks import SCHEMA
from benchmark.analysis.contrasts import Finding
from benchmark.analysis.statistics import Measured
from benchmark.config.schema import Params
from benchmark.report.claims.formatting import scale
from benchmark.report.document import Document, Overrides, at, inside, text


class Described(Document):
    """A difference that decides nothing, without p and significance."""

    plus: str = at("plus", "name")
    minus: str = at("minus", "name")
    mean: Annotated[Measured | None, inside("estimate")] = at("finding")
    low: Annotated[Measured | None, inside("low")] = at("finding")
    high: Annotated[Measured | None, inside("high")] = at("finding")
    n: Annotated[int, inside("n", default=0)] = at("finding")
    lacking: list[str]


class Absent(Document):
    """A secondary difference that the track does not have."""

    text: str = at("entry", "text")
    experiment: str
    plus: str = at("entry", "plus")
    minus: str = at("entry", "minus")
    lacking: Annotated[list[str], inside("lacking", default=["not on this track"])] = at(
        "difference"
    )


class Beside(Absent):
    """A secondary difference."""

    mean: Annotated[Measured | None, inside("finding", "estimate")] = at("difference")
    low: Annotated[Measured | None, inside("finding", "low")] = at("difference")
    high: Annotated[Measured | None, inside("finding", "high")] = at("difference")
    n: Annotated[int, inside("finding", "n", default=0)] = at("difference")


class Arm(Document):
    """One side of the difference."""

    name: str
    metric: str
    rows: list[Annotated[str, BeforeValidator(lambda own: str(own.row))]]
    accuracy: Measured | None
    learnt: bool | None
    learning_rate: float | None = at("rate")
    at_edge: bool
    parameters: int | None
    images: int | None


class Arms(Document):
    """Both sides."""

    plus: Arm
    minus: Arm


class OtherImages(Document):
    """The verdict on other test images."""

    se: Measured
    low: Measured | None = at("finding", "low")
    high: Measured | None = at("finding", "high")
    verdict: Verdict


def _beside(secondary: Secondary) -> Absent:
    return (Beside if secondary.difference else Absent).model_validate(secondary)


class Advice(Document):
    """The verdict on what a claim advises, and what it rests on."""

    verdict: Verdict | None
    reasons: list[str]
    question: str = at("claim", "advice", "question")
    experiment: str = at("claim", "advice", "experiment")
    metric: Metric = at("claim", "advice", "metric")
    minus_metric: Metric | None = at("claim", "advice", "minus_metric")
    unit: str | None = at("claim", "advice", "unit")
    backbone: str | None = at("claim", "advice", "backbone")
    recipes: list[str] | None = at("claim", "advice", "recipes")
    plus: str = at("claim", "advice", "plus")
    minus: str = at("claim", "advice", "minus")
    differs: list[str] = at("claim", "advice", "differs")
    rule: Rule = at("claim", "advice", "rule")
    pilot: Pilot = at("claim", "advice", "pilot")
    margin: float | None
    estimate: Annotated[Finding | None, inside("finding")] = at("difference")
    at_least: bool
    correlation: Annotated[Measured | None, inside("correlation")] = at("difference")
    seeds: Annotated[tuple[Paired, ...], inside("pairs", default=())] = at("difference")
    arms: Arms | None = at("difference")
    bar: Bar | None
    planned: Planned | None
    sensitivity: Sensitivity | None
    other_images: OtherImages | None = at("images")
    running_statistics: Described | None = at("plain")
    confirmed_by: Described | None = at("confirmation")
    beside: list[Annotated[Beside | Absent, BeforeValidator(_beside)]] = at("secondary")
    leakage: list[Leak] = at("leaks")
    halfway: Halfway | None
    cells: Annotated[tuple[Cell, ...], inside("cells", default=())] = at("difference")


class Claim(Document):
    """One claim."""

    id: str
    title: str
    sentence: str
    description: Description | None
    advice: Advice | None
    changes: str
    literature: dict[str, str]


class Verdicts(Document):
    """A whole file."""

    layout: int = Field(serialization_alias="schema")
    """Version of this layout."""
    version: int
    track: str
    title: str
    scale: str | None
    training_images: int | None
    """How many images networks are trained on; null if the track asks for a share of its source."""
    knn_k: tuple[int, int]
    level: float
    comparisons: int
    margins: dict[Metric, float]
    stable: float
    learnt: float
    claims: list[Claim]
    overrides: Overrides
    """What `--set` set in the params, by key; missing if nothing."""


def json(
    claims: Claims,
    params: Params,
    verdicts: Sequence[Judged],
    literature: Mapping[str, Mapping[str, str]],
) -> str:
    """The text of `claims.json`; `literature` has for each claim the word of every published result."""
    return text(
        Verdicts(
            layout=SCHEMA,
            version=claims.version,
            track=params.track,
            title=params.title,
            scale=scale(params.track),
            training_images=train if isinstance(train := params.data.splits.train, int) else None,
            knn_k=params.evaluation.knn_k,
            level=claims.level,
            comparisons=claims.comparisons,
            margins=claims.margins,
            stable=claims.stable,
            learnt=claims.learnt,
            claims=[_claim(judged, literature[judged.name]) for judged in verdicts],
            overrides=dict(params.overrides),
        )
    )


def _claim(judged: Judged, literature: Mapping[str, str]) -> Claim:
    claim = judged.claim
    return Claim(
        id=judged.name,
        title=claim.title,
        sentence=claim.sentence,
        description=claim.description,
        advice=Advice.model_validate(judged) if claim.advice else None,
        changes=claim.changes,
        literature={name: literature[name] for name in claim.literature},
    )
