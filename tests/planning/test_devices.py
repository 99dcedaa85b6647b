"""What is refused before several devices divide the steps of a cell."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmark.core.errors import UserError
from benchmark.planning.sizes import check_devices
from tests.helpers import tiny

TUNED = {
    "resnet": {
        "epochs": 1, "batch_size": 9, "learning_rates": [0.01], "warmup_fraction": 0.0,
        "weight_decay": 0.0, "view": "weak", "norms": "batch",
    }
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "devices", "message"),
    [
        ({}, 3, "training: batch_size is 32, expected a multiple of the 3 devices"),
        ({"evaluation/finetune": TUNED}, 2, "evaluation.finetune: batch_size is 9, expected a multiple"),
        ({"training/compile": "inductor"}, 2, "training: compile is inductor, expected none with 2"),
    ],
)  # fmt: skip
def test_what_devices_cannot_divide_is_refused(
    changes: dict[str, Any], devices: int, message: str
) -> None:
    tree = tiny.raw()
    for path, value in changes.items():
        tree = tiny.changed(tree, path, value)
    cell = tiny.cell("simclr-resnet-bn-s0", tree=tree)
    check_devices([cell], 1)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        check_devices([cell], devices)
    assert cell.label in str(raised.value)


def test_devices_and_micro_batches_do_not_divide_a_step_twice() -> None:
    tree = tiny.changed(tiny.raw(), "training/micro_batches", 2)
    tree["experiments"]["leaderboard"] |= {"methods": ["supervised"], "schemes": ["gn"]}
    cell = tiny.cell("supervised-resnet-gn-s0", tree=tree)
    check_devices([cell], 1)
    with pytest.raises(UserError, match="micro_batches is 2, expected 1 with 2 devices"):
        check_devices([cell], 2)


def test_what_they_can_divide_passes() -> None:
    check_devices([tiny.cell("simclr-resnet-bn-s0"), tiny.cell("raw-pixels-pixels-none-s0")], 4)
