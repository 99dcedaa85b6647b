"""The facts that components state about themselves, and their check."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from benchmark.components.options import check, check_options
from benchmark.core.errors import UserError, check_known
from benchmark.core.value import Value, first_error

PIXELS = "pixels"
"""The backbone of controls without a network, and its component."""

TIMM = "timm"
"""The component of backbones whose `model` is one of timm's."""

Section = Literal["backbone", "projector", "predictor", "decoder"]
SECTIONS: tuple[str, ...] = get_args(Section)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _name(given: str) -> str:
    if not NAME.fullmatch(given):
        raise ValueError("expected letters, digits and - _ . between them")
    return given


Name = Annotated[str, AfterValidator(_name)]
"""Becomes part of the names of cells and files."""


class Facts(Value):
    """The facts of any component; docs/extending.md describes them."""

    model_config = ConfigDict(strict=True)

    kind: str | None = None
    name: Name
    version: int = Field(ge=1)
    options: dict[str, Any]
    defaults: dict[str, Any] = Field(default_factory=dict)
    example: dict[str, Any] | None = None

    @field_validator("options")
    @classmethod
    def _are_described(cls, options: dict[str, Any]) -> dict[str, Any]:
        for option, description in options.items():
            if option in ("name", "norm", "model", "weights_sha256"):
                raise ValueError(f"{option!r} cannot be an option: it is a key of a cell")
            inner = description
            for prefix in ("list of ", "range of "):
                inner = inner.removeprefix(prefix) if isinstance(inner, str) else inner
            try:
                # No description allows None, so each that can be read raises UserError.
                check(option, None, inner)
            except (ValueError, AttributeError):
                raise ValueError(
                    f"{option} is described as {description!r}, expected e.g. 'int >= 1' or a list "
                    "of values"
                ) from None
            except UserError:
                continue
        return options

    def check(self, where: str) -> None:
        """Raises UserError if the facts do not agree with the options."""
        for fact in (
            "defaults",
            "largest_share",
            "multiple_of_batch",
            "divides_batch",
            "whole_batch_loss",
            "repeats",
            "unrecorded",
        ):
            given = getattr(self, fact, {})
            doubling = given.values() if fact == "multiple_of_batch" else ()
            named = itertools.chain(given, *doubling)
            check_known(f"option of {where}: {fact}", named, self.options)
        described = {option: self.options[option] for option in self.defaults}
        check_options(f"{where}: defaults", self.defaults, described)
        if self.example is not None:
            check_options(f"{where}: example", self.example, self.options, self.defaults)


class NormFacts(Facts):
    """The facts of a norm."""

    batch_dependent: bool
    activates: bool = False
    branch: Literal["skipinit"] | None = None
    divides_batch: list[str] = Field(default_factory=list)
    sample_groups: bool = False

    @model_validator(mode="after")
    def _has_groups(self) -> NormFacts:
        if self.sample_groups and not {"groups", "assignment"} <= set(self.options):
            raise ValueError("sample_groups needs the options groups and assignment")
        return self


class MethodFacts(Facts):
    """The facts of a method."""

    title: str
    views: int = Field(ge=0)
    local_views: bool = False
    sections: list[Section]
    teacher: bool
    view_batching: Literal["separate", "joint"] = "separate"
    largest_share: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    multiple_of_batch: dict[str, list[str]] = Field(default_factory=dict)
    per_sample_loss: bool = False
    labels: bool = False
    whole_batch_loss: dict[str, list[Any]] = Field(default_factory=dict)
    repeats: list[str] = Field(default_factory=list)
    weights: Literal["required", "refused"] | None = None

    @model_validator(mode="after")
    def _has_backbone(self) -> MethodFacts:
        if "backbone" not in self.sections and (self.sections or self.views):
            raise ValueError(f"sections is {self.sections!r}: what is trained has a backbone")
        return self


class SourceFacts(Facts):
    """The facts of a data source."""

    unrecorded: list[str] = Field(default_factory=list)


class BackboneFacts(Facts):
    """The facts of a backbone."""

    normalized: bool
    initialized: bool = False
    weights: bool = False


KINDS: dict[str, type[Facts]] = {
    "norm": NormFacts,
    "method": MethodFacts,
    "source": SourceFacts,
    "backbone": BackboneFacts,
    "optimizer": Facts,
}


def check_facts(where: str, kind: str, facts: Mapping[str, Any]) -> None:
    """Raises UserError if a component's facts are not those of its kind."""
    check_known(f"kind of {where}", [kind], list(KINDS))
    try:
        KINDS[kind].model_validate(facts).check(where)
    except ValidationError as error:
        said = first_error(error, KINDS[kind], facts)
        raise UserError(f"{where}: COMPONENT: {said}") from None
