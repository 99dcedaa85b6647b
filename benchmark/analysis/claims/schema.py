"""What `claims.yaml` may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmark.config.schema import Model

NAME = "claims.yaml"

STABLE_RATE = "highest-stable-rate"

Metric = Literal[
    "knn_reestimated",
    "knn",
    "pretext_same_group",
    "pretext_regrouped",
    "swap_gap",
    "highest-stable-rate",
]
Verdict = Literal["supported", "refuted", "mixed", "undetermined"]
Rule = Literal["better", "no-worse", "differs"]

ACCURACIES = ("knn_reestimated", "knn")
"""Metrics whose change at another learning rate can be predicted from a sweep."""


class Pair(Model):
    """A difference, `plus` minus `minus`: two rows of an experiment, or two schemes for stable rates."""

    plus: str
    minus: str
    differs: tuple[str, ...]
    """All fields of the cells' configuration in which the two differ, see `matched`."""


class Beside(Pair):
    """A secondary difference, which decides nothing."""

    text: str
    experiment: str | None = None
    """The experiment of the rows, if it is not the one that decides."""


class Description(Model):
    """Whether the named method does what the claim states, by published code and papers."""

    verdict: Verdict
    why: str
    sources: tuple[str, ...] = Field(min_length=1)


class Pilot(Model):
    """The spread as known before the runs."""

    sd: float = Field(gt=0)
    """Standard deviation over seeds of the difference, in the metric's unit."""
    source: str
    """The records that it is from."""


class Advice(Pair):
    """The primary difference, which decides whether the advice of the claim helps."""

    question: str
    experiment: str
    metric: Metric
    minus_metric: Metric | None = None
    """Of `minus`, if the difference is of two measurements of the same networks."""
    unit: str | None = None
    """Of the metric's values, if they are not accuracies."""
    backbone: str | None = None
    recipes: tuple[str, ...] | None = Field(default=None, min_length=2)
    """With `backbone`: the recipes that differ in their learning rate, for the highest stable one."""
    rule: Rule
    pilot: Pilot
    confirmed_by: Pair | None = None
    """A difference that must have the same sign."""

    def of(self, entry: Beside) -> Advice:
        """The same question about a secondary difference, which may be of another experiment."""
        return self.model_copy(update={"experiment": entry.experiment or self.experiment})

    @property
    def of_minus(self) -> Advice:
        """The same question about `minus`, which may have another metric."""
        return self.model_copy(update={"metric": self.minus_metric or self.metric})

    def rows(self, arm: str) -> list[str]:
        """The rows of an arm: the one of that name, or those of a scheme at every learning rate."""
        if self.metric == STABLE_RATE and self.recipes:
            return [f"{recipe}-{self.backbone}-{arm}" for recipe in self.recipes]
        return [arm]


class RatesFigure(Model):
    """Accuracy against the learning rate."""

    kind: Literal["rates"]
    schemes: tuple[str, ...] = Field(min_length=1)


class GroupsFigure(Model):
    """Accuracy against the size of BN's groups."""

    kind: Literal["groups"]
    recipe: str
    backbone: str
    batch_size: Annotated[int, Field(ge=2)]
    schemes: dict[str, Annotated[int, Field(ge=2)]]
    """The samples in a group under each scheme; `batch_size` is the whole batch."""
    flat: tuple[str, ...]
    """Schemes that have no groups."""


class PlainFigure(Model):
    """A figure of the pretext task in and across BN groups, of norms by section, or of the arms."""

    kind: Literal["leakage", "placement", "arms"]


class Claim(Model):
    """One claim and the rules that judge it."""

    title: str
    sentence: str
    description: Description | None
    advice: Advice | None
    beside: tuple[Beside, ...]
    changes: str
    """What would change the verdict."""
    figure: RatesFigure | GroupsFigure | PlainFigure = Field(discriminator="kind")
    literature: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, Pair, Advice]]:
        """Every difference, with its place in the claim and the advice with its experiment."""
        advice = self.advice
        if advice is None:
            return []
        pairs: list[tuple[str, Pair, Advice]] = [("advice", advice, advice)]
        if advice.confirmed_by:
            pairs.append(("advice.confirmed_by", advice.confirmed_by, advice))
        secondary = enumerate(self.beside)
        return pairs + [(f"beside.{n}", entry, advice.of(entry)) for n, entry in secondary]


class Claims(Model):
    """A whole `claims.yaml`."""

    version: int = Field(ge=1)
    level: float = Field(gt=0, lt=1)
    """The chance of at least one false significance among all claims."""
    margins: dict[Metric, Annotated[float, Field(gt=0)]]
    """What counts as equivalent, in the metric's unit."""
    stable: float = Field(gt=0)
    """A learning rate is stable if its accuracy is within this of the best rate's."""
    learnt: float = Field(ge=0)
    """A row has learnt if its accuracy is at least this above untrained backbones and raw pixels."""
    claims: dict[str, Claim] = Field(min_length=1)

    @property
    def comparisons(self) -> int:
        """The number of differences that are tested: one for each claim with an advice."""
        return sum(claim.advice is not None for claim in self.claims.values())
