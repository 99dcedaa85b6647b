"""Checks that two arms differ in the fields that `differs` names, and in no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmark.analysis.claims.schema import NAME, Advice, Claims, Pair
from benchmark.config.schema import Params
from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.planning.cell import Row

TUNED = ("training.learning_rate", "training.weight_decay")
"""Fields that may differ too if every row has a setting of its own, tuned in the same way."""

MADE_UP = (1.0, 0.0)
"""The same learning rate and weight decay for all arms that are tuned."""


def check(claims: Claims, params: Params) -> None:
    """Checks every difference whose rows these params have.

    Raises UserError, naming the claim and the field, if two arms differ in a field that `differs` does
    not name, and if it names a field in which they do not differ.
    """
    for name, claim in claims.claims.items():
        for place, pair, advice in claim.pairs:
            _check_pair(f"{NAME}: {name}.{place}", pair, advice, params)


def _check_pair(where: str, pair: Pair, advice: Advice, params: Params) -> None:
    if absent(params, advice, pair):
        return
    rows = {str(row): row for row in plan.rows(params, advice.experiment)}
    both = list(zip(advice.rows(pair.plus), advice.rows(pair.minus), strict=True))
    tuned = params.experiments[advice.experiment].learning_rates == "tuned"

    def config(row: Row) -> Mapping[str, Any]:
        setting = None
        if plan.is_trained(params, row.method):
            setting = MADE_UP if tuned else plan.default_setting(params, row)
        cell = plan.resolve(params, advice.experiment, row, 0, setting, "test", str(row))
        return cell.config.as_json()

    arms = f"{pair.plus} and {pair.minus}"
    fields = {field for a, b in both for field in differing(config(rows[a]), config(rows[b]))}
    for field in sorted(fields):
        if not any(_covers(named, field) for named in pair.differs):
            raise UserError(f"{where}: {arms} also differ in {field}: add it to `differs`")
    for named in pair.differs:
        if tuned and named in TUNED:
            raise UserError(
                f"{where}: `differs` names {named}, which {advice.experiment} tunes: remove it"
            )
        if not any(_covers(named, field) for field in fields):
            raise UserError(
                f"{where}: `differs` names {named}, in which {arms} do not differ: remove it"
            )


def absent(params: Params, advice: Advice, pair: Pair) -> str | None:
    """What a track does not ask for, of all that a pair needs; None if it has everything."""
    if advice.experiment not in params.experiments:
        return f"this track has no experiment {advice.experiment}"
    rows = {str(row) for row in plan.rows(params, advice.experiment)}
    for arm in (pair.plus, pair.minus):
        if lost := [row for row in advice.rows(arm) if row not in rows]:
            return f"this track's experiment {advice.experiment} has no row {', '.join(lost)}"
    return None


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    """The fields in which two configurations differ, e.g. `norms.backbone.norm`."""
    left, right = dict(_fields(first)), dict(_fields(second))
    return {
        field
        for field in left.keys() | right.keys()
        if field not in left or field not in right or left[field] != right[field]
    }


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every innermost value with its path; entries of a list count from 0."""
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
