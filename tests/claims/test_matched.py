"""Arms that are compared differ in what the contrast names and in nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.analysis.claims import load, matched
from benchmark.analysis.claims.schema import Claims
from benchmark.config import params, yaml_file
from benchmark.core.errors import UserError
from tests.helpers import planted, tiny
from tests.helpers.planted import LONG, PLUS, advice, one, shortcut, speed


def check(asked: dict[str, Any], tree: dict[str, Any] | None = None, **changes: Any) -> None:
    claims = yaml_file.parse(Claims, one(asked, **changes), "claims.yaml")
    matched.check(claims, params.parse(tree or planted.experiments(), "params.yaml"))


def refused(asked: dict[str, Any], tree: dict[str, Any] | None = None, **changes: Any) -> str:
    with pytest.raises(UserError) as raised:
        check(asked, tree, **changes)
    return str(raised.value)


def test_what_is_named_may_differ_and_a_prefix_covers_what_is_below_it() -> None:
    check(advice())
    check(advice(differs=["norms.backbone", "norms.projector"]))
    check(shortcut())
    check(shortcut(differs=["training.teacher"]))
    check(speed())


def test_a_field_that_is_not_named_is_refused_with_its_name_and_the_claims() -> None:
    said = refused(advice(differs=["norms.backbone"]))
    assert (
        "claims.yaml: C.advice: simclr-resnet-bn and simclr-resnet-gn also differ in norms.pro"
        in said
    )
    # A prefix is of whole fields.
    assert "norms" in refused(advice(differs=["norm"]))


def test_a_planted_confound_is_found() -> None:
    """An arm that is also trained longer, or under other views."""
    assert "also differ in training.images_seen: add it" in refused(advice(plus=LONG["plus"]))
    tree = planted.experiments()
    tree["methods"]["simclr-weak"] = {"extends": "simclr", "views": ["weak", "strong"]}
    tree["experiments"]["study"]["methods"].append("simclr-weak")
    said = refused(advice(plus="simclr-weak-resnet-bn"), tree)
    assert "also differ in training.views.0." in said
    tree["schemes"]["gn-other"] = {"norm": "gn", "groups": 2}
    tree["experiments"]["study"]["schemes"].append("gn-other")
    groups = advice(plus="simclr-resnet-gn-other", differs=["norms.backbone"])
    assert "also differ in norms.projector.groups: add it" in refused(groups, tree)


def test_a_field_in_which_they_do_not_differ_is_refused() -> None:
    said = refused(advice(differs=["norms", "training.teacher"]))
    assert "names training.teacher, in which" in said
    assert "do not differ: remove it" in said
    assert "do not differ: remove it" in refused(advice(minus=PLUS))


def test_rates_may_differ_where_they_are_tuned_and_not_elsewhere() -> None:
    tree = planted.experiments()
    tree["methods"]["simclr-fast"] = {"extends": "simclr", "learning_rate": {"resnet": 0.5}}
    tree["experiments"]["study"]["methods"].append("simclr-fast")
    asked = advice(plus="simclr-fast-resnet-bn")
    check(asked, tree)
    said = refused(advice(differs=["norms", "training.learning_rate"]), tree)
    assert "which study tunes" in said
    tree["experiments"]["study"]["learning_rates"] = "default"
    assert "also differ in training.learning_rate: add it" in refused(asked, tree)


@pytest.mark.parametrize("place", ["beside", "confirmed_by"])
def test_every_pair_is_checked(place: str) -> None:
    wrong = {**LONG, "differs": ["norms.backbone"]}
    if place == "beside":
        said = refused(advice(), beside=[{"text": "x", **wrong}])
        assert "C.beside.0: simclr-long-resnet-bn" in said
    else:
        said = refused(advice(confirmed_by=wrong))
        assert "C.advice.confirmed_by: simclr-long-resnet-bn" in said


def test_what_a_track_does_not_have_is_not_checked() -> None:
    tree = planted.experiments()
    del tree["experiments"]["study"]
    check(advice(differs=["nothing"]), tree)


def test_the_projects_own_claims_differ_only_in_what_they_name() -> None:
    found = params.read(tiny.PROJECT / "params.yaml")
    matched.check(load.read(tiny.PROJECT), found)
