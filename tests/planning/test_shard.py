"""Shards divide a plan: nothing is left out, nothing is trained twice, and no part has all the work."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.planning.cell import Cell, Task, tasks
from benchmark.planning.shard import Shard, cost
from tests.helpers import tiny

LENGTHS = st.lists(st.integers(min_value=0, max_value=50), max_size=60)
"""Of the cells, in steps; 0 for a control."""


@functools.cache
def template() -> Cell:
    return tiny.cell("simclr-resnet-bn-s0")


def cell(number: int, steps: int) -> Cell:
    """A cell of so many steps, with two views of 32 images in each."""
    config = template().config
    recipe = config.recipe.model_copy(update={"images_seen": steps * config.recipe.batch_size})
    changed = {"seed": number, "training": recipe if steps else None}
    return replace(template(), label=f"cell-{number}", config=config.model_copy(update=changed))


@settings(derandomize=True, deadline=None, database=None)
@given(LENGTHS, st.integers(min_value=1, max_value=12), st.randoms(use_true_random=False))
def test_the_parts_are_the_plan(lengths: list[int], count: int, dice: random.Random) -> None:
    planned = tasks([cell(number, steps) for number, steps in enumerate(lengths)], "images")
    parts = [Shard(place, count).of(planned) for place in range(1, count + 1)]
    names = [task.cell.label for part in parts for task in part]
    assert sorted(names) == sorted(task.cell.label for task in planned)
    for part in parts:
        assert part == [task for task in planned if task in part]
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    # 2 views of a batch of 32 images in each step.
    costs = [sum(lengths[int(t.cell.label[5:])] * 64 for t in part) for part in parts]
    assert max(costs) - min(costs) <= 64 * max(lengths, default=0)
    # Another order of the plan divides it in the same way.
    shuffled = list(planned)
    dice.shuffle(shuffled)
    for place, part in enumerate(parts, 1):
        again = Shard(place, count).of(shuffled)
        assert {task.cell.label for task in again} == {task.cell.label for task in part}


def test_cells_with_one_record_are_in_one_part() -> None:
    """Two names of the same training run."""
    twice = [Task(cell(0, 5), "images"), Task(replace(cell(0, 5), label="other"), "images")]
    assert [Shard(place, 2).of(twice) for place in (1, 2)] == [twice, []]


def test_the_cost_of_real_cells() -> None:
    """Thirty steps of 32 images: two views of each, one without self-supervision, none of a control."""
    planned = plan.cells(tiny.params(), "leaderboard", None)
    assert {c.method: cost(c) for c in planned} == {
        "simclr": 30 * 32 * 2,
        "supervised": 30 * 32,
        "raw-pixels": 0,
    }


def test_every_row_is_dealt_out() -> None:
    """The seeds of a row take the same time, so no shard has all of a slow one."""
    tree = tiny.raw()
    grid = tree["experiments"]["leaderboard"]
    grid |= {"methods": ["simclr", "byol"], "seeds": [0, 1, 2, 3], "schemes": ["bn"]}
    planned = tasks(plan.cells(tiny.params(tree), "leaderboard", None), "images")
    assert len(planned) == 8
    for place in range(1, 5):
        methods = sorted(task.cell.method for task in Shard(place, 4).of(planned))
        assert methods == ["byol", "simclr"]


@pytest.mark.parametrize("text", ["2/8", "8/8", "1/1"])
def test_what_is_a_shard(text: str) -> None:
    shard = Shard.parse(text)
    assert f"{shard.place}/{shard.count}" == text


@pytest.mark.parametrize(
    "text",
    ["0/4", "5/4", "1/0", "-1/4", "1", "1/", "a/b", "1/4/2", "1.0/2", "٣/٤", "", f"1/{'9' * 5000}"],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"^--shard is '.*', expected I/N with I from 1 to N"):
        Shard.parse(text)
