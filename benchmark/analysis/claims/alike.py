"""Arms that are compared are alike in everything but the fields that their contrast names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.analysis.claims.schema import NAME, Advice, Claims, Pair
from benchmark.config.schema import Params
from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.planning.cell import Row

TUNED = ("training.learning_rate", "training.weight_decay")
"""What may differ beside them where every row has a setting of its own, tuned alike."""

MADE_UP = (1.0, 0.0)
"""A learning rate and weight decay for arms that are tuned, whatever is found for them later."""


def check(claims: Claims, params: Params) -> None:
    """Checks every contrast whose rows these params have.

    Raises UserError, naming the claim and the field, where two arms differ in a field that `differs`
    does not name, and where it names a field in which they do not differ.
    """
    for name, claim in claims.claims.items():
        for place, pair, advice in claim.pairs:
            _check_pair(f"{NAME}: {name}.{place}", pair, advice, params)


def _check_pair(where: str, pair: Pair, advice: Advice, params: Params) -> None:
    if advice.experiment not in params.experiments:
        return
    rows = {str(row): row for row in plan.rows(params, advice.experiment)}
    both = list(zip(advice.rows(pair.plus), advice.rows(pair.minus), strict=True))
    if not all(name in rows for names in both for name in names):
        return
    tuned = params.experiments[advice.experiment].learning_rates == "tuned"
    arms = f"{pair.plus} and {pair.minus}"
    found = {
        field
        for plus, minus in both
        for field in differing(
            _config(params, advice.experiment, rows[plus], tuned=tuned),
            _config(params, advice.experiment, rows[minus], tuned=tuned),
        )
    }
    for field in sorted(found):
        if not any(_covers(named, field) for named in pair.differs):
            raise UserError(f"{where}: {arms} differ in {field} too, which `differs` does not name")
    for named in pair.differs:
        if tuned and named in TUNED:
            raise UserError(f"{where}: `differs` names {named}, which {advice.experiment} tunes")
        if not any(_covers(named, field) for field in found):
            raise UserError(f"{where}: `differs` names {named}, in which {arms} are alike")


def _config(params: Params, experiment: str, row: Row, *, tuned: bool) -> Mapping[str, Any]:
    """The configuration of a row's cells, whatever the seed."""
    setting = None
    if plan.is_trained(params, row.method):
        setting = MADE_UP if tuned else plan.default_setting(params, row)
    return plan.resolve(params, experiment, row, 0, setting, "test", str(row)).config.as_json()


def differing(plus: Mapping[str, Any], minus: Mapping[str, Any]) -> set[str]:
    """The fields that two configurations do not have in common, e.g. `norms.backbone.norm`."""
    left, right = dict(_fields(plus)), dict(_fields(minus))
    lacks = object()
    return {
        field
        for field in left.keys() | right.keys()
        if left.get(field, lacks) != right.get(field, lacks)
    }


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, with its path; entries of a list count from 0."""
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    if not inner:
        yield path, value
    for key, below in inner:
        yield from _fields(below, f"{path}.{key}" if path else str(key))


def _covers(named: str, field: str) -> bool:
    return field == named or field.startswith(f"{named}.")
