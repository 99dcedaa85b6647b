"""The numbers of every component are those that its version stands for."""

from __future__ import annotations

import copy

import pytest

from benchmark.core import canonical_json
from tests.golden import values

STORED = values.stored()


@pytest.fixture(scope="module")
def computed():
    return values.compute()


def test_nothing_changed_without_a_version(computed):
    assert set(computed) == set(STORED), "run `python -m tests.golden.values`"
    changed = {name for name in STORED if values.differs(STORED[name], computed[name])}
    bumped = {n for n in changed if STORED[n]["components"] != computed[n]["components"]}
    suspects = values.suspects(STORED, computed, changed - bumped)
    assert not changed - bumped, (
        f"{len(changed - bumped)} entries changed, e.g. {min(changed - bumped)}: "
        f"{values.differs(STORED[min(changed - bumped)], computed[min(changed - bumped)])}; "
        f"raise the version of: {', '.join(suspects) or 'the component you changed'}"
    )
    stale = {n for n in STORED if STORED[n]["components"] != computed[n]["components"]}
    assert not stale, f"new versions, e.g. in {min(stale)}: run `python -m tests.golden.values`"


@pytest.mark.parametrize(
    "component", ["norm gn", "method byol", "backbone vit", "optimizer sgd", "views"]
)
def test_the_component_that_changed_is_named(component):
    changed = copy.deepcopy(STORED)
    touched = {name for name in STORED if component in STORED[name]["components"]}
    for name in touched:
        first = min(changed[name]["values"])
        changed[name]["values"][first] += 1e-3 * max(1.0, abs(changed[name]["values"][first]))
    assert touched
    assert component in values.suspects(STORED, changed, touched)
    assert all(values.differs(STORED[name], changed[name]) for name in touched)


def test_values_are_canonical():
    assert values.FILE.read_text(encoding="utf-8") == canonical_json.pretty(STORED)
