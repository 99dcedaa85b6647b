"""The published verdicts of all tracks, read from their `claims.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from benchmark.analysis.claims import rules
from benchmark.analysis.claims.rules import Shown
from benchmark.analysis.claims.schema import Description, Metric, Rule, Verdict
from benchmark.analysis.contrasts import Finding
from benchmark.config import params
from benchmark.core.errors import UserError
from benchmark.core.value import first_error

SCHEMA = 3
"""The layout of `claims.json` that is read here."""


class Part(BaseModel):
    """A part of a published document: what is needed of it."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


AnyPart = TypeVar("AnyPart", bound=Part)


def _finding(value: Any) -> Any:
    """The keys of a published estimate, under the names of a `Finding`."""
    if not isinstance(value, dict):
        return value
    if "mean" not in value:
        raise ValueError("key 'mean' is missing")
    return {"estimate" if key == "mean" else key: entry for key, entry in value.items()}


class Arm(Part):
    """One side of the difference."""

    name: str
    learnt: bool | None
    at_edge: bool
    parameters: int | None
    """Of its backbone."""
    images: int | None
    """Seen in training, repetitions counted and views not."""


class Arms(Part):
    """Both sides."""

    plus: Arm
    minus: Arm


class Planned(Part):
    """The seeds that the experiment asks for."""

    seeds: int


class Cell(Part):
    """One training run of the arms."""

    status: str
    sha256: str | None


class Step(Part):
    """The estimate and verdict if one arm had another learning rate; null if not known."""

    estimate: float | None
    verdict: Verdict | None


class Sensitivity(Part):
    """The verdicts at other learning rates."""

    steps: tuple[Step, ...]


class OtherImages(Part):
    """The verdict on other test images, by the standard error over images."""

    se: float
    verdict: Verdict


class Advice(Part):
    """The verdict on what a claim advises, and what it rests on."""

    verdict: Verdict
    question: str
    experiment: str
    metric: Metric
    minus_metric: Metric | None
    unit: str | None
    plus: str
    minus: str
    rule: Rule
    margin: float
    estimate: Annotated[Finding | None, BeforeValidator(_finding)]
    at_least: bool
    arms: Arms | None
    planned: Planned | None
    sensitivity: Sensitivity | None
    other_images: OtherImages | None
    cells: tuple[Cell, ...]

    @property
    def shown(self) -> Shown | None:
        """What the estimate shows, whatever the verdict is; None if nothing."""
        if self.estimate is None or self.arms is None:
            return None
        # As in `rules.verdict`: an arm at an edge could be better still.
        edge = self.arms.plus.at_edge or self.arms.minus.at_edge
        return rules.shown(self.estimate, equivalent=bool(self.estimate.equivalent) and not edge)


class Claim(Part):
    """One claim on one track."""

    id: str
    title: str
    sentence: str
    description: Description | None
    advice: Advice | None
    literature: dict[str, str]


class TrackVerdicts(Part):
    """The document of one track."""

    layout: int = Field(alias="schema")
    version: int
    track: str
    title: str
    scale: str | None
    training_images: int | None
    level: float
    comparisons: int = Field(ge=1)
    claims: tuple[Claim, ...] = Field(min_length=1)
    overrides: dict[str, Any] = {}


ASKED = (
    "question", "experiment", "metric", "minus_metric", "unit", "plus", "minus", "rule", "margin",
)  # fmt: skip
"""The keys of an advice that must be the same on all tracks, or the verdicts answer other questions."""


def read(root: Path) -> tuple[TrackVerdicts, ...]:
    """The documents of all tracks that have one, `mini` first.

    Raises UserError if there is none, for a document that is not of the form of `claims.json`, was
    judged with `--set` or has a verdict that its own estimate contradicts, and if two documents do not
    judge the same claims in the same way.
    """
    names = params.tracks(root)
    paths = {name: root / "results" / name / "claims.json" for name in names}
    found = tuple(_read(path, name) for name, path in paths.items() if path.is_file())
    if not found:
        raise UserError(
            f"no track has results/TRACK/claims.json (tracks: {', '.join(names)}): "
            "run `uv run benchmark claims` first"
        )
    for other in found[1:]:
        _check_same(found[0], other)
    return found


def sizes(arms: Iterable[Arm]) -> tuple[int, int] | None:
    """The largest backbone (parameters) and longest training (images) among some arms.

    None if no arm has them.
    """
    known = [(arm.parameters, arm.images) for arm in arms if arm.parameters and arm.images]
    return (max(p for p, _ in known), max(n for _, n in known)) if known else None


def _shown(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _parse(path: Path, kind: type[AnyPart]) -> AnyPart:
    content = path.read_bytes()
    try:
        raw = from_json(content)
    except ValueError as error:
        raise UserError(f"{_shown(path)} is not JSON: {error}") from None
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise UserError(f"{_shown(path)}: {first_error(error, kind, raw)}") from None


def _read(path: Path, track: str) -> TrackVerdicts:
    raw = _parse(path, _Layout)
    where, again = _shown(path), f"run `uv run benchmark claims --track {track}`"
    if raw.layout != SCHEMA:
        raise UserError(f"{where}: schema is {raw.layout}, expected {SCHEMA}: {again}")
    found = _parse(path, TrackVerdicts)
    if found.track != track:
        raise UserError(f"{where}: track is {found.track!r}, expected {track!r}")
    if found.overrides:
        given = ", ".join(found.overrides)
        raise UserError(f"{where} was judged with --set ({given}), which is not the track: {again}")
    for claim in found.claims:
        if claim.advice:
            _check_consistent(f"{where}: {claim.id}", claim.advice, again)
    return found


class _Layout(Part):
    """What must be known of a document before it is read."""

    layout: int = Field(alias="schema")


def _check_consistent(where: str, advice: Advice, again: str) -> None:
    """Raises UserError for a verdict that does not follow from the estimate beside it."""
    if advice.verdict == "undetermined":
        return
    found = advice.shown
    given = rules.TABLE[advice.rule].of(found) if found else "undetermined"
    if given != advice.verdict:
        raise UserError(
            f"{where}: verdict is {advice.verdict}, but its estimate gives {given}: {again}"
        )


def _check_same(first: TrackVerdicts, other: TrackVerdicts) -> None:
    where = f"results/{other.track}/claims.json"
    beside = f"results/{first.track}/claims.json"

    def same(key: str, own: object, expected: object) -> None:
        if own != expected:
            raise UserError(
                f"{where}: {key} is {own!r}, and {expected!r} in {beside}: judge both tracks again"
            )

    for key in ("version", "level", "comparisons"):
        same(key, getattr(other, key), getattr(first, key))
    same("claims", [claim.id for claim in other.claims], [claim.id for claim in first.claims])
    for own, expected in zip(other.claims, first.claims, strict=True):
        for key in ("title", "sentence"):
            same(f"{own.id}.{key}", getattr(own, key), getattr(expected, key))
        same(f"{own.id}.description", _plain(own.description), _plain(expected.description))
        same(f"{own.id}.advice", own.advice is not None, expected.advice is not None)
        for key in ASKED:
            same(
                f"{own.id}.{key}",
                getattr(own.advice, key, None),
                getattr(expected.advice, key, None),
            )


def _plain(description: Description | None) -> Mapping[str, Any] | None:
    return description.model_dump() if description else None
