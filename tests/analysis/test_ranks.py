"""Ranks, their critical difference and the diagram agree with published values and by hand."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from benchmark.analysis import ranks
from benchmark.analysis.ranks import Ranks
from benchmark.report.claims import ranking
from tests.helpers.made_up import PROJECT

SCHEMES = ("bn", "gn", "ln", "none-plain", "none-skipinit")


def blocks(count: int, gap: float, names: tuple[str, ...] = SCHEMES) -> list[dict[str, float]]:
    """The first name tends to be best, each further one worse by `gap` standard deviations."""
    random = np.random.default_rng(0)
    return [
        {name: random.normal() - gap * place for place, name in enumerate(names)}
        for _ in range(count)
    ]


def compared(values: list[dict[str, float]]) -> Ranks:
    found = ranks.critical_difference(values)
    assert found is not None
    return found


def test_average_ranks_by_hand() -> None:
    found = compared(
        [
            {"bn": 0.9, "gn": 0.8, "ln": 0.7},
            {"bn": 0.5, "gn": 0.6, "ln": 0.5},
            {"ln": 0.1, "gn": 0.2, "bn": 0.3},
        ]
    )
    assert found.average == pytest.approx({"bn": 4.5 / 3, "gn": 5 / 3, "ln": 8.5 / 3})
    assert list(found.average) == ["bn", "gn", "ln"]
    assert found.blocks == 3


# Demšar 2006, table 5(a): critical values at .05 of the two-tailed Nemenyi test, by classifiers.
@pytest.mark.parametrize(
    ("k", "value"),
    [(3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (10, 3.164)],
)
def test_critical_difference_is_the_published_one(k: int, value: float) -> None:
    found = compared(blocks(14, 1.0, tuple(f"s{place}" for place in range(k))))
    assert found.critical == pytest.approx(value * (k * (k + 1) / (6 * 14)) ** 0.5, abs=0.001)


def test_published_example_of_four_classifiers_on_fourteen_tasks() -> None:
    # Section 3.2.2 of the same paper, which rounds to 1.25.
    assert compared(blocks(14, 1.0, SCHEMES[:4])).critical == pytest.approx(1.25, abs=0.005)


def test_friedmans_p_is_scipys() -> None:
    values = blocks(8, 0.4)
    expected = stats.friedmanchisquare(*([block[name] for block in values] for name in SCHEMES))
    assert compared(values).p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("gap", [0.5, 0.8, 1.2, 3.0])
def test_groups_are_the_widest_runs_within_the_critical_difference(gap: float) -> None:
    found = compared(blocks(12, gap))
    assert found.p < 0.05
    order = list(found.average)
    runs = [
        tuple(order[a:b])
        for a in range(len(order))
        for b in range(a + 1, len(order) + 1)
        if found.average[order[b - 1]] - found.average[order[a]] <= found.critical
    ]
    widest = [r for r in runs if not any(set(r) < set(other) for other in runs)]
    assert list(found.groups) == widest
    assert len(widest) > 1


def test_nothing_differs_where_friedmans_test_finds_nothing() -> None:
    found = compared(blocks(4, 0.0))
    assert found.p > 0.05
    assert found.groups == (tuple(found.average),)


def test_equal_values_are_one_group() -> None:
    found = compared([dict.fromkeys(SCHEMES, 0.1)] * 3)
    assert found.p == 1
    assert set(found.average.values()) == {3}
    assert found.groups == (tuple(sorted(SCHEMES)),)


def test_only_what_every_block_holds_is_ranked() -> None:
    values = blocks(6, 1.0)
    more = [{**block, "rms": 9.0} if place else block for place, block in enumerate(values)]
    assert ranks.critical_difference(more) == compared(values)


@pytest.mark.parametrize(
    "values",
    [[], blocks(2, 1.0), blocks(9, 1.0, SCHEMES[:2]), [*blocks(3, 1.0), {"bn": 0.1, "gn": 0.2}]],
    ids=["no block", "two blocks", "two schemes", "two schemes in common"],
)
def test_too_few_to_compare(values: list[dict[str, float]]) -> None:
    assert ranks.critical_difference(values) is None


def test_order_of_blocks_and_names_does_not_matter() -> None:
    values = blocks(9, 0.6)
    turned = [dict(reversed(block.items())) for block in reversed(values)]
    assert compared(turned) == compared(values)


def test_diagram_has_a_bar_for_every_group_of_two_or_more() -> None:
    found = compared(blocks(12, 0.8))
    root = ElementTree.fromstring(ranking.diagram(found))
    widths = [
        element.get("style", "")
        for element in root.iter("{http://www.w3.org/2000/svg}path")
        if "stroke-width: 3.5" in element.get("style", "")
    ]
    assert len(widths) == sum(len(group) > 1 for group in found.groups) > 1


@pytest.mark.parametrize("gap", [0.0, 0.8])
def test_diagram_is_black_and_white(gap: float) -> None:
    svg = ranking.diagram(compared(blocks(4, gap))).decode()
    colours = {part[:6] for part in svg.split("#") if part[6:7] in {";", '"'}}
    assert colours
    assert all(colour[:2] == colour[2:4] == colour[4:] for colour in colours)


PROGRAM = """
import hashlib
from benchmark.analysis import ranks
from benchmark.report.claims import ranking
found = ranks.critical_difference(
    [{"bn": 4 + n % 3, "gn": 3 + n % 2, "ln": 2.5, "none": 1 + n % 4} for n in range(9)]
)
print(hashlib.sha256(ranking.diagram(found)).hexdigest())
"""


def test_diagram_is_the_same_bytes_in_every_process() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed}, cwd=PROJECT, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]  # fmt: skip
    assert len(found[0].strip()) == 64
    assert len(set(found)) == 1
