"""The highest stable learning rate: in decades, censored at the highest tried, never of a part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.analysis.claims.arms import highest_stable
from benchmark.planning.cell import Cell
from tests.helpers.planted import (
    RATES,
    Plan,
    but,
    judged,
    ladder,
    one,
    reasons,
    speed,
    stand,
    without,
)


def rated(root: Path, planned: Plan, **changes: Any) -> dict[str, Any]:
    stand(root, {"speed": planned}, one(speed(**changes)))
    return judged(root)


def test_the_highest_stable_rate_in_decades(tmp_path: Path) -> None:
    entry = rated(tmp_path, ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1}))
    assert entry["verdict"] == "supported"
    assert entry["estimate"]["mean"] == 1.0
    assert [line["plus"] for line in entry["seeds"]] == [0.0] * 6
    assert not entry["at_least"]


def test_the_higher_arm_may_be_censored_and_the_lower_may_not(tmp_path: Path) -> None:
    entry = rated(tmp_path / "higher", ladder({"bn": 10.0, "none-plain": 0.1, "ln": 0.1}))
    assert (entry["verdict"], entry["at_least"]) == ("supported", True)
    assert entry["arms"]["plus"]["at_edge"]

    def once(cell: Cell) -> Any:
        top = 10.0 if cell.seed == 3 else 0.1
        return ladder({"bn": 10.0, "none-plain": top, "ln": 0.1})(cell)

    entry = rated(tmp_path / "lower", once)
    assert (entry["verdict"], entry["at_least"]) == ("undetermined", True)
    assert "still stable under none-plain" in reasons(entry)
    entry = rated(tmp_path / "both", ladder({"bn": 10.0, "none-plain": 10.0, "ln": 0.1}))
    assert (entry["verdict"], entry["at_least"]) == ("undetermined", False)
    assert entry["estimate"]["mean"] == 0.0


def test_the_same_highest_rate_for_every_seed_is_not_equivalent(tmp_path: Path) -> None:
    """On a grid of rates: with a mean beyond the margin, all seeds can still have no difference."""
    entry = rated(tmp_path, ladder({"bn": 1.0, "none-plain": 1.0, "ln": 0.1}))
    assert (entry["verdict"], entry["estimate"]["equivalent"]) == ("undetermined", False)
    assert (entry["estimate"]["mean"], entry["estimate"]["se"]) == (0.0, 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all of its records."""
    root = tmp_path_factory.mktemp("whole")
    rated(root, ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1}))
    return root


@pytest.mark.parametrize("recipe", RATES)
@pytest.mark.parametrize("scheme", ["bn", "none-plain"])
def test_every_rate_and_seed_must_be_there(whole: Path, recipe: str, scheme: str) -> None:
    with without(whole, f"{recipe}-resnet-{scheme}-s3", "speed"):
        entry = judged(whole)
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == f"no record of {recipe}-resnet-{scheme} for seed 3"


def test_running_out_of_memory_is_no_instability(tmp_path: Path) -> None:
    lost = "simclr-lr-10-resnet-bn-s2"
    planned = ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1})
    entry = rated(tmp_path, but(planned, {lost: "out-of-memory"}))
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert f"{lost} out-of-memory" in reasons(entry)


def test_a_seed_that_learns_at_no_rate_has_no_value(tmp_path: Path) -> None:
    planned = ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1})
    flat = {f"{recipe}-resnet-none-plain-s2": 0.21 for recipe in RATES}
    entry = rated(tmp_path, but(planned, flat))
    assert (entry["verdict"], entry["estimate"]) == ("undetermined", None)
    assert reasons(entry) == "none-plain has learnt at no rate for seed 2"


@pytest.mark.parametrize(
    ("accuracies", "highest"),
    [
        ({0.1: 0.5, 1.0: 0.46, 10.0: 0.44}, 1.0),
        ({0.1: 0.5, 1.0: 0.3, 10.0: 0.48}, 10.0),
        ({0.1: 0.5, 1.0: None, 10.0: None}, 0.1),
        ({0.1: 0.1, 1.0: 0.15, 10.0: None}, None),
        ({0.1: None}, None),
    ],
)
def test_the_highest_rate_near_the_best_one(
    accuracies: dict[float, float | None], highest: float | None
) -> None:
    assert highest_stable(accuracies, 0.05, 0.2) == highest
