"""Parts of a plan for several machines that know nothing of each other, as in a job array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.core.errors import UserError
from benchmark.core.wording import clipped, natural
from benchmark.planning.cell import Cell, Task


@dataclass(frozen=True)
class Shard:
    """The `place`-th, from 1, of `count` parts."""

    place: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of a text such as `2/8`; UserError for any other text."""
        first, _, second = text.partition("/")
        place, count = natural(first), natural(second)
        if place is None or count is None or not 1 <= place <= count:
            raise UserError(
                f"--shard is {clipped(text)}, expected I/N with I from 1 to N, e.g. 2/8"
            )
        return cls(place, count)

    def of(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks of this part, in their order.

        Every task is in one part. The cells are dealt out from the most costly one to the least, so the
        costs of two parts differ by at most one cell's. The parts depend on the whole list of tasks and
        on nothing else: not on what is done already.
        """
        distinct = {task.fingerprint: task for task in tasks}.values()
        # Cells of one cost are dealt out by name: a row's cells, which take the same time, to all parts.
        dealt = sorted(distinct, key=lambda task: (-cost(task.cell), task.cell.label))
        own = {task.fingerprint for task in dealt[self.place - 1 :: self.count]}
        return [task for task in tasks if task.fingerprint in own]


def cost(cell: Cell) -> int:
    """The images that the networks see in training: steps × batch × views. A control costs nothing."""
    recipe = cell.config.training
    return recipe.steps * recipe.batch_size * len(recipe.views) if recipe else 0
