"""What `claims.yaml` may hold, and its reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from benchmark import plan, plugins, yamlfile
from benchmark.errors import UserError, unknown
from benchmark.report.contrasts import LEVEL
from benchmark.schema import Model, Params

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
"""The metrics that learning rates are tuned for, so that a sweep says what another rate would change."""


class Pair(Model):
    """A difference: `plus` minus `minus`, two rows of an experiment, or schemes for the highest rate."""

    plus: str
    minus: str
    differs: tuple[str, ...]
    """The fields of the cells' configuration in which the two differ, and no other: see `alike`."""


class Beside(Pair):
    """A difference that is shown beside the one that decides."""

    text: str
    experiment: str | None = None
    """Whose rows they are, where they are not of the experiment that decides."""


class Description(Model):
    """Whether the named method does what the claim says, by published code and papers."""

    verdict: Verdict
    why: str
    sources: tuple[str, ...] = Field(min_length=1)


class Pilot(Model):
    """What was known of the spread before the runs."""

    sd: float = Field(gt=0)
    """Standard deviation over seeds of the difference, in the metric's unit."""
    source: str
    """The records it is from."""


class Advice(Pair):
    """The one difference that decides whether what the claim advises helps."""

    question: str
    experiment: str
    metric: Metric
    minus_metric: Metric | None = None
    """Of `minus`, where the difference is of two measurements of the same networks."""
    unit: str | None = None
    """Of the metric's values, where they are no accuracies."""
    backbone: str | None = None
    recipes: tuple[str, ...] | None = Field(default=None, min_length=2)
    """With `backbone`: the recipes that differ in their learning rate, for the highest stable one."""
    rule: Rule
    pilot: Pilot
    confirmed_by: Pair | None = None
    """A difference that must have the same sign."""

    def beside(self, entry: Beside) -> Advice:
        """The same question asked of what a difference beside it is about."""
        other = entry.experiment or self.experiment
        return self.model_copy(update={"experiment": other})

    @property
    def of_minus(self) -> Advice:
        """The same question asked of `minus`, which another metric may stand for."""
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
    """A figure of the pretext task in and across BN groups, of all sections, or of the claim's arms."""

    kind: Literal["leakage", "placement", "arms"]


class Claim(Model):
    """One claim and how it is judged."""

    title: str
    sentence: str
    description: Description | None
    advice: Advice | None
    beside: tuple[Beside, ...]
    changes: str
    """What would change the verdict."""
    figure: RatesFigure | GroupsFigure | PlainFigure = Field(discriminator="kind")
    literature: tuple[str, ...]


class Claims(Model):
    """A whole `claims.yaml`."""

    version: int = Field(ge=1)
    level: float = Field(gt=0, lt=1)
    """The chance of at least one false significance among all claims."""
    margins: dict[Metric, Annotated[float, Field(gt=0)]]
    """What counts as equivalent, in the metric's unit."""
    stable: float = Field(gt=0)
    """A learning rate is stable where its accuracy is within this of the best rate's."""
    learnt: float = Field(ge=0)
    """A row has learnt where its accuracy is at least this above untrained backbones and raw pixels."""
    claims: dict[str, Claim] = Field(min_length=1)

    @property
    def comparisons(self) -> int:
        """How many differences are tested: one for each claim that is judged by one."""
        return sum(claim.advice is not None for claim in self.claims.values())


def read(root: Path) -> Claims:
    """The claims at the top of the project; anything wrong in the file itself is one line."""
    path = root / NAME
    if not path.is_file():
        raise UserError(f"no {NAME} in {root}: run this at the top of the project")
    return yamlfile.parse(Claims, yamlfile.load(path), path.name)


def check(claims: Claims, params: Params, literature: Iterable[str]) -> None:
    """Checks every name in the claims, by the params that stand beside them.

    Raises UserError for an experiment, row, recipe, scheme or entry of the literature that does not
    exist, with the nearest one, for an advice that lacks what its metric needs, and for arms that differ
    in another field than they say.
    """
    from benchmark.claims import alike

    known = set(literature)
    if claims.level != LEVEL:
        raise UserError(f"{NAME}: level is {claims.level}, expected {LEVEL}, which is calibrated")
    for name, claim in claims.claims.items():
        where = f"{NAME}: {name}"
        if not plugins.NAME.fullmatch(name):
            raise UserError(f"{where} is no name, expected letters, digits and - _ . between them")
        for entry in (*claim.literature, *(claim.description.sources if claim.description else ())):
            if entry not in known:
                raise unknown(f"literature in {where}", entry, known)
        if claim.advice:
            if claim.advice.metric not in claims.margins:
                raise UserError(f"{NAME}: margins has no {claim.advice.metric}, which {name} needs")
            _check_advice(where, claim, claim.advice, params)
        elif claim.beside:
            raise UserError(f"{where}: beside needs an advice, whose experiment it shows")
    alike.check(claims, params)


def _check_advice(where: str, claim: Claim, advice: Advice, params: Params) -> None:
    if advice.experiment not in params.experiments:
        raise unknown(f"experiment in {where}", advice.experiment, params.experiments)
    pairs: list[tuple[str, Pair, Advice]] = [(where, advice, advice)]
    if advice.metric == STABLE_RATE:
        if advice.backbone is None or advice.recipes is None or advice.unit is None:
            raise UserError(f"{where}.advice: {STABLE_RATE} needs backbone, recipes and unit")
        if any(entry.experiment for entry in claim.beside):
            raise UserError(f"{where}.beside: {STABLE_RATE} is of one experiment")
        if advice.confirmed_by or advice.minus_metric:
            raise UserError(
                f"{where}.advice: {STABLE_RATE} has no confirmed_by and no minus_metric"
            )
    elif advice.backbone or advice.recipes or advice.unit:
        raise UserError(f"{where}.advice: backbone, recipes and unit belong to {STABLE_RATE}")
    if advice.minus_metric == STABLE_RATE:
        raise UserError(f"{where}.advice: minus_metric cannot be {STABLE_RATE}")
    pairs += [(where, advice.confirmed_by, advice)] if advice.confirmed_by else []
    pairs += [
        (f"{where}.beside" if entry.experiment else where, entry, advice.beside(entry))
        for entry in claim.beside
    ]
    _check_figure(where, claim, advice, params)
    for place, pair, asked in pairs:
        names = [row for arm in (pair.plus, pair.minus) for row in asked.rows(arm)]
        _check_rows(place, asked.experiment, names, params)


def _check_rows(where: str, experiment: str, names: Iterable[str], params: Params) -> None:
    if experiment not in params.experiments:
        raise unknown(f"experiment in {where}", experiment, params.experiments)
    rows = [str(row) for row in plan.rows(params, experiment)]
    for name in names:
        if name not in rows:
            raise unknown(f"row of experiment {experiment} in {where}", name, rows)


def _check_figure(where: str, claim: Claim, advice: Advice, params: Params) -> None:
    experiment = params.experiments[advice.experiment]
    figure = claim.figure
    named: dict[Literal["methods", "backbones", "schemes"], Mapping[str, object] | tuple[str, ...]]
    if isinstance(figure, RatesFigure):
        if advice.metric != STABLE_RATE:
            raise UserError(f"{where}.figure: rates need the metric {STABLE_RATE}")
        named = {"schemes": figure.schemes}
    elif isinstance(figure, GroupsFigure):
        named = {
            "methods": (figure.recipe,),
            "backbones": (figure.backbone,),
            "schemes": (*figure.schemes, *figure.flat),
        }
    else:
        return
    for kind, names in named.items():
        for name in names:
            if name not in experiment.every(kind):
                raise unknown(f"{kind} of the figure in {where}", name, experiment.every(kind))
