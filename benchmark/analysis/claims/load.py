"""Reads `claims.yaml` and checks every name in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from benchmark.analysis.claims.schema import (
    NAME,
    STABLE_RATE,
    Advice,
    Claim,
    Claims,
    GroupsFigure,
    RatesFigure,
)
from benchmark.analysis.contrasts import LEVEL
from benchmark.components import facts
from benchmark.config import yaml_file
from benchmark.config.schema import Params
from benchmark.core.errors import UserError, unknown
from benchmark.planning import plan


def read(root: Path) -> Claims:
    """The claims of the project in `root`. Raises UserError for a missing or malformed file."""
    path = root / NAME
    if not path.is_file():
        raise UserError(f"no {NAME} in {root}: run this at the top of the project")
    return yaml_file.parse(Claims, yaml_file.load(path), path.name)


def check(claims: Claims, params: Params, literature: Iterable[str]) -> None:
    """Checks every name in the claims against the params of the same project.

    Raises UserError, with the nearest name, for an experiment, row, recipe, scheme or entry of the
    literature that does not exist; for an advice that lacks a key that its metric needs; and for arms
    that differ in a field that `differs` does not name.
    """
    from benchmark.analysis.claims import matched

    known = set(literature)
    if claims.level != LEVEL:
        raise UserError(f"{NAME}: level is {claims.level}, expected {LEVEL}, the calibrated level")
    for name, claim in claims.claims.items():
        where = f"{NAME}: {name}"
        if not facts.NAME.fullmatch(name):
            raise UserError(
                f"{where} is not a valid name, expected letters and digits with - _ . between them"
            )
        for entry in (*claim.literature, *(claim.description.sources if claim.description else ())):
            if entry not in known:
                raise unknown(f"literature in {where}", entry, known)
        if claim.advice:
            if claim.advice.metric not in claims.margins:
                raise UserError(f"{NAME}: margins has no {claim.advice.metric}, which {name} needs")
            _check_advice(where, claim, claim.advice, params)
        elif claim.beside:
            raise UserError(f"{where}: beside needs an advice, whose experiment it uses")
    matched.check(claims, params)


def _check_advice(where: str, claim: Claim, advice: Advice, params: Params) -> None:
    if advice.experiment not in params.experiments:
        raise unknown(f"experiment in {where}", advice.experiment, params.experiments)
    if advice.metric == STABLE_RATE:
        if advice.backbone is None or advice.recipes is None or advice.unit is None:
            raise UserError(f"{where}.advice: {STABLE_RATE} needs backbone, recipes and unit")
        if any(entry.experiment for entry in claim.beside):
            raise UserError(f"{where}.beside: {STABLE_RATE} allows no other experiment")
        if advice.confirmed_by or advice.minus_metric:
            raise UserError(
                f"{where}.advice: {STABLE_RATE} has no confirmed_by and no minus_metric"
            )
    elif advice.backbone or advice.recipes or advice.unit:
        raise UserError(f"{where}.advice: backbone, recipes and unit belong to {STABLE_RATE}")
    if advice.minus_metric == STABLE_RATE:
        raise UserError(f"{where}.advice: minus_metric cannot be {STABLE_RATE}")
    _check_figure(where, claim, advice, params)
    for place, pair, asked in claim.pairs:
        experiment = asked.experiment
        if experiment not in params.experiments:
            raise unknown(f"experiment in {where}.{place}", experiment, params.experiments)
        rows = [str(row) for row in plan.rows(params, experiment)]
        for name in (row for arm in (pair.plus, pair.minus) for row in asked.rows(arm)):
            if name not in rows:
                raise unknown(f"row of experiment {experiment} in {where}.{place}", name, rows)


def _check_figure(where: str, claim: Claim, advice: Advice, params: Params) -> None:
    experiment = params.experiments[advice.experiment]
    figure = claim.figure
    named: list[tuple[Literal["methods", "backbones", "schemes"], str]] = []
    if isinstance(figure, RatesFigure):
        if advice.metric != STABLE_RATE:
            raise UserError(f"{where}.figure: kind rates needs the metric {STABLE_RATE}")
        named = [("schemes", scheme) for scheme in figure.schemes]
    elif isinstance(figure, GroupsFigure):
        named = [("methods", figure.recipe), ("backbones", figure.backbone)]
        named += [("schemes", scheme) for scheme in (*figure.schemes, *figure.flat)]
    for kind, name in named:
        if name not in experiment.every(kind):
            raise unknown(f"{kind} of the figure in {where}", name, experiment.every(kind))
