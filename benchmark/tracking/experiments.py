"""What MLflow shows of one experiment: its description and prepared tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.core.wording import counted
from benchmark.results.published import Published

_VIEW = "mlflow.sharedViewState."
"""Prefix of the tags in which MLflow's pages keep saved views (the menu *Views*)."""

_WHAT = ("method", "backbone", "scheme")
_NAME = "attributes.`Run Name`"
_ACCURACIES = ("knn20_reestimated", "knn20", "linear_reestimated")


def description(identifier: str, track: str, experiment: str, cells: Sequence[Published]) -> str:
    """The description of an experiment, in Markdown; `identifier` is MLflow's."""
    failed = sum(cell.record.status != "done" for cell in cells)
    some = f", {failed} failed" if failed else ""
    runs = counted(len(cells), "training run")
    example = next((cell.label for cell in cells if cell.record.status == "done"), "a cell")
    page = f"#/experiments/{identifier}/runs?workflowType=machine_learning&viewStateShareKey="
    # The list of experiments shows the first words without formatting, the page the first line.
    return f"""\
{runs}{some}. Start here: [accuracy of every run]({page}runs) · \
[means over seeds]({page}means)

**Which normalization suits which self-supervised method?** Track `{track}`, experiment \
`{experiment}`. One run is one training: a method, a backbone, a normalization scheme and a \
seed, in this order in its name (`{example}`). The run `leaderboard`, if there is one, holds the \
tables and figures.

**Metrics** are accuracies of the frozen backbone on test images, 0 to 1, higher is better.

| metric | what it is |
| --- | --- |
| `knn20`, `knn200` | nearest neighbours, k = 20 or 200, on the pooled embedding |
| `linear` | a linear probe on the pooled embedding |
| `…_reestimated` | the same after batch norm's statistics were estimated again; no different \
for schemes without batch statistics; what ranks rows and decides claims |
| `class_token/…` | on the class token instead (vision transformers) |
| `diagnostics/…` | collapse, dependence on the other images of a batch, leakage and stability; \
docs/diagnostics.md explains each |
| `train/…` | curves over training steps: loss, gradient norm, accuracy at the pretext task |
| `validation/…` | accuracies on the validation images, and the probe's penalty they chose |
| `usage/…` | time and memory on the machine that trained it; not part of the result |

**To compare schemes**, open one of the tables above and narrow it: \
`tags.method = "simclr" and tags.backbone = "resnet"`. For curves switch to the chart view, or tick \
runs and press *Compare*. Seeds differ by chance: trust a difference between two schemes only \
where it is larger than that between seeds.

**A failed run** is a result too: its tag `status` says *diverged*, *out-of-memory* or *crashed*, \
and `cause` why. It has curves up to the failure and no accuracies.

These pages are made from the records in `results/{track}/records` by \
`uv run benchmark sync --track {track}`; what is changed here is not kept.
"""


def saved_views() -> dict[str, str]:
    """Tags that add tables with the important columns to the menu *Views*.

    By default, MLflow's pages show no metric. The format is that of MLflow 3.17; a version that does not
    know it shows no such entries.
    """
    means = {
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": key} for key in _WHAT],
        },
        "selectedColumns": _columns("metrics", _ACCURACIES),
        # A group's name is long: what its runs have in common.
        "columnOrder": [_NAME],
        "columnWidths": {_NAME: 400},
        "runsHiddenMode": "SHOW_ALL",
    }
    columns = [
        *_columns("metrics", _ACCURACIES),
        *_columns("tags", ("status",)),
        *_columns("params", (*_WHAT, "seed")),
    ]
    every = {
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": {_NAME: 230},
    }
    return {
        f"{_VIEW}runs": _view("Accuracy of every run", 2, every),
        f"{_VIEW}means": _view("Means over seeds", 1, means),
    }


def _columns(kind: str, names: Sequence[str]) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]


def _view(name: str, order: int, state: Mapping[str, Any]) -> str:
    """A saved view of cells, best first; a higher `order` is higher in the menu."""
    whole = {
        "searchFilter": 'tags.kind = "cell"',
        "orderByKey": "metrics.`knn20_reestimated`",
        "orderByAsc": False,
        **state,
    }
    envelope = {"name": name, "createdAt": order, "updatedAt": order, "state": json.dumps(whole)}
    return json.dumps(envelope)
