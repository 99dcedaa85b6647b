"""A project with claims of its own and planted records, laid out as the pipeline lays them out."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.analysis.claims import judge, load
from benchmark.config import params
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.planning import plan, rate_table, sweep
from benchmark.planning.cell import Cell
from benchmark.report.claims import document
from benchmark.results import published
from benchmark.results.rows import RecordIndex
from tests.helpers import tiny
from tests.helpers.claimed import yaml

SEEDS = [0, 1, 2, 3, 4, 5]
RATES = {"simclr-lr-0.01": 0.01, "simclr-lr-0.1": 0.1, "simclr-lr-1": 1.0, "simclr-lr-10": 10.0}
PLUS, MINUS, THIRD = (f"simclr-resnet-{scheme}" for scheme in ("bn", "gn", "ln"))
LONG = {"plus": "simclr-long-resnet-bn", "minus": "simclr-long-resnet-gn"}
SHUFFLE = "training.teacher.shuffle"
APART, SHUFFLED = "moco-resnet-bn-of-8-no-shuffle", "moco-resnet-bn-of-8"

CONTROLS = {"untrained": 0.2, "raw-pixels": 0.15}
"""The accuracies of what every experiment has beside its rows."""

Plan = Callable[[Cell], Any]
"""What a cell comes to: an accuracy in 0..1, null where it is not finite, or a failure's status."""


def experiments() -> dict[str, Any]:
    """Tiny params with an experiment of each kind that a claim can ask."""
    found = tiny.raw()
    found["methods"] |= {
        name: {"extends": "simclr", "learning_rate": {"resnet": rate}}
        for name, rate in RATES.items()
    }
    found["methods"]["simclr-long"] = {
        "extends": "simclr",
        "images_seen": 1920,
        "learning_rates_from": "simclr",
    }
    ghost = {"norm": "ghost-bn", "groups": 4, "assignment": "strided"}
    found["schemes"]["bn-of-8"] = ghost
    found["schemes"]["bn-of-8-no-shuffle"] = {**ghost, "teacher": {"shuffle": False}}
    on = {"backbones": ["resnet"]}
    untrained = {"methods": ["untrained"], **on, "schemes": ["bn", "gn"], "seeds": [0, 1]}
    pixels = {"methods": ["raw-pixels"], **on, "schemes": ["bn"]}
    found["experiments"] = {
        "study": {
            "methods": ["simclr"], **on, "schemes": ["bn", "gn", "ln"], "seeds": SEEDS,
            "learning_rates": "tuned",
            "also": [
                untrained,
                pixels,
                {"methods": ["simclr-long"], **on, "schemes": ["bn", "gn"], "seeds": [0, 1, 2]},
                {"methods": ["simclr"], **on, "schemes": ["bn-gn-head"], "seeds": [0, 1]},
            ],
        },
        "speed": {
            "methods": list(RATES), **on, "schemes": ["bn", "none-plain"], "seeds": SEEDS,
            "learning_rates": "default",
            "also": [
                untrained,
                pixels,
                {"methods": list(RATES), **on, "schemes": ["ln"], "seeds": [0]},
            ],
        },
        "leakage": {
            "methods": ["moco"], **on, "schemes": ["bn-of-8", "bn-of-8-no-shuffle"],
            "seeds": SEEDS, "learning_rates": "default", "also": [untrained, pixels],
        },
    }  # fmt: skip
    return found


def claim(advice: Mapping[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """A claim of that advice, of the form of claims.yaml."""
    return {
        "title": "A title",
        "sentence": "A sentence.",
        "description": None,
        "advice": advice,
        "beside": [],
        "changes": "Nothing.",
        "figure": {"kind": "arms"},
        "literature": [],
    } | changes


def advice(rule: str = "better", **changes: Any) -> dict[str, Any]:
    """BN against GN in the experiment `study`."""
    return {
        "question": "Is it?",
        "experiment": "study",
        "metric": "knn_reestimated",
        "plus": PLUS,
        "minus": MINUS,
        "differs": ["norms"],
        "rule": rule,
        "pilot": {"sd": 0.01, "source": "earlier records"},
    } | changes


def speed(**changes: Any) -> dict[str, Any]:
    """The highest stable rate of BN against that of no norm."""
    return {
        "question": "How much higher?",
        "experiment": "speed",
        "metric": "highest-stable-rate",
        "unit": "decades",
        "backbone": "resnet",
        "recipes": list(RATES),
        "plus": "bn",
        "minus": "none-plain",
        "differs": ["norms"],
        "rule": "better",
        "pilot": {"sd": 0.3, "source": "earlier records"},
    } | changes


def leaks(**changes: Any) -> dict[str, Any]:
    """Whether a network that was trained with shuffling finds pairs in one group more easily."""
    return (
        advice(
            experiment="leakage",
            metric="pretext_same_group",
            minus_metric="pretext_regrouped",
            plus=SHUFFLED,
            minus=SHUFFLED,
            differs=[],
        )
        | changes
    )


def shortcut(**changes: Any) -> dict[str, Any]:
    """Whether training without shuffling raises the swap gap."""
    return (
        advice(
            experiment="leakage", metric="swap_gap", plus=APART, minus=SHUFFLED, differs=[SHUFFLE]
        )
        | changes
    )


def claims(**own: Any) -> dict[str, Any]:
    """A whole claims.yaml; by default each rule and each kind of figure once."""
    beside = [
        {"text": "LN against GN", "plus": THIRD, "minus": MINUS, "differs": ["norms"]},
        {
            "text": "Head",
            "plus": PLUS,
            "minus": "simclr-resnet-bn-gn-head",
            "differs": ["norms.projector"],
        },
    ]
    groups = {
        "kind": "groups", "recipe": "simclr", "backbone": "resnet", "batch_size": 32,
        "schemes": {"bn": 32}, "flat": ["gn", "ln"],
    }  # fmt: skip
    pair = {**LONG, "differs": ["norms"]}
    ln = {"text": "LN", "plus": "bn", "minus": "ln", "differs": ["norms"]}
    described = {"verdict": "mixed", "why": "They <say> so.", "sources": ["moco"]}
    return {
        "version": 1,
        "level": 0.05,
        "margins": {
            "knn_reestimated": 0.02, "pretext_same_group": 0.02, "swap_gap": 0.02,
            "highest-stable-rate": 0.25,
        },
        "stable": 0.05,
        "learnt": 0.02,
        "claims": own
        or {
            "C1": claim(speed(), figure={"kind": "rates", "schemes": ["bn", "none-plain", "ln"]},
                        beside=[ln]),
            "C2": claim(advice(), beside=beside, description=described, literature=["moco"]),
            "C3a": claim(leaks(), figure={"kind": "leakage"}),
            "C3b": claim(shortcut(), figure={"kind": "leakage"}),
            "C4": claim(advice("no-worse"), figure=groups),
            "C5": claim(advice("differs", confirmed_by=pair), figure={"kind": "placement"}),
        },
    }  # fmt: skip


def one(asked: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A claims.yaml with one claim, called C."""
    return claims(C=claim(asked, **changes))


def literature() -> dict[str, Any]:
    """One published result, that nothing here can be held against."""
    entry = {
        "claims": ["C2"], "source": "He et al., MoCo", "at": "1911.05722", "year": 2019,
        "setting": "ImageNet", "result": "It leaks.", "status": "A",
        "not_comparable": "It is larger.",
    }  # fmt: skip
    return {"entries": {"moco": entry}}


def effect(gap: float, spread: float = 0.002, level: float = 0.6, seed: int = 0) -> Plan:
    """Accuracies in which BN is higher than the others by `gap`.

    Each seed shifts all arms alike; beside that every cell has noise of its own, of deviation `spread`.
    """

    def accuracy(cell: Cell) -> float:
        if cell.method in CONTROLS:
            return CONTROLS[cell.method]
        shared = random.Random(cell.seed).gauss(0, 0.01)
        own = random.Random(f"{seed} {cell.label}").gauss(0, spread)
        return level + shared + own + (gap if cell.scheme == "bn" else 0.0)

    return accuracy


def but(planned: Plan, changed: Mapping[str, Any]) -> Plan:
    """A plan with other values for some cells, or for whole rows."""

    def value(cell: Cell) -> Any:
        return changed.get(cell.label, changed.get(cell.label.rsplit("-s", 1)[0], planned(cell)))

    return value


def ladder(highest: Mapping[str, float]) -> Plan:
    """Accuracies of .5 up to a scheme's highest stable rate, and a divergence at each rate above."""

    def accuracy(cell: Cell) -> float | str:
        if cell.method in CONTROLS:
            return CONTROLS[cell.method]
        rate = cell.config.recipe.learning_rate
        return 0.5 + 0.01 * math.log10(rate) if rate <= highest[cell.scheme] else "diverged"

    return accuracy


def right(label: str, accuracy: float) -> str:
    """Which of 2,000 images a network gets right, as a record says it: mostly the easy ones."""
    hard, own = random.Random("images"), random.Random(f"images {label}")
    difficulty = [hard.random() + own.gauss(0, 0.1) for _ in range(2000)]
    limit = sorted(difficulty)[round(2000 * accuracy) - 1]
    bits = "".join("1" if one <= limit else "0" for one in difficulty)
    return f"{int(bits, 2):0500x}"


def result(cell: Cell, value: Any) -> dict[str, Any]:
    """The part of a record that is planted."""
    found: dict[str, Any] = {"metrics": {}, "diagnostics": {}, "curves": {}, "watched": None}
    if isinstance(value, str):
        return found
    found["metrics"] = {
        # The statistics that training left cost GN, of all norms, another point.
        "pooled.knn5": None if value is None else value - (0.02 if cell.scheme == "gn" else 0.01),
        "pooled_reestimated.knn5": value,
    }
    found["correct"] = None if value is None else right(cell.label, value)
    if cell.config.training and value is not None:
        found["curves"] = {"pretext": [0.1] * 45 + [value] * 5}
        found["watched"] = {"share": [0.25, 0.5, 1.0], "knn": [0.2, (value + 0.2) / 2, value]}
        # A network that was trained without shuffling leans on its groups, and every network a little.
        noise = random.Random(f"leak {cell.label}").gauss(0, 0.004)
        gap = (0.3 if "no-shuffle" in cell.scheme else 0.1) + noise
        leakage = {
            "pretext_same_group": 0.5 + gap, "pretext_regrouped": 0.5, "swap_gap": gap,
            "swap_gap_initial": 0.02, "same_group": 0.4, "same_group_chance": 0.25,
        }  # fmt: skip
        sections = {"backbone": {"batch_dependence": 0.125}}
        found["diagnostics"] = {"sections": sections, "leakage": leakage}
    return found


Around = Mapping[str, tuple[float | None, float | None]]
"""By row, the validation accuracy that is expected one step lower and one step higher."""


def rates(
    found: Params, experiment: str, edges: Sequence[str], around: Around
) -> list[rate_table.TunedRow]:
    """A table of rates in which the recipe's is the best, at the edge for the rows in `edges`."""
    table = []
    for row in sweep.tunable(found, experiment):
        rate, decay = plan.default_setting(found, row)
        lower, higher = around.get(str(row), (0.49, 0.49))
        table.append(
            rate_table.TunedRow.model_validate({
                "method": row.method, "backbone": row.backbone, "scheme": row.scheme,
                "learning_rate": rate, "weight_decay": decay, "validation": 0.5,
                "one_step": {
                    "lower": {"learning_rate": rate / 3, "validation": lower},
                    "higher": {"learning_rate": rate * 3, "validation": higher},
                },
                "default_learning_rate": rate, "default_weight_decay": decay, "default_validation": 0.5,
                "at_edge": str(row) in edges, "trials": [],
            })
        )  # fmt: skip
    return table


def stand(
    root: Path,
    of: Mapping[str, Plan] | None = None,
    written: Mapping[str, Any] | None = None,
    edges: Sequence[str] = (),
    tree: Mapping[str, Any] | None = None,
    around: Around | None = None,
) -> Params:
    """Writes a project, and the records of the experiments that something is planted for."""
    root.mkdir(parents=True, exist_ok=True)
    tiny.write_params(root, dict(tree or experiments()))
    yaml(root / "claims.yaml", copy.deepcopy(dict(written or claims())))
    yaml(root / "literature.yaml", literature() if written is None else {"entries": {}})
    found = params.read(root / "params.yaml")
    for experiment, planned in (of or {}).items():
        settings = None
        if found.experiments[experiment].learning_rates == "tuned":
            table = rates(found, experiment, edges, around or {})
            rate_table.write(rate_table.path(root, "mini", experiment), found, experiment, table)
            settings = rate_table.settings(table)
        for cell in plan.cells(found, experiment, settings):
            value = planned(cell)
            status = value if isinstance(value, str) else "done"
            entry = tiny.record(cell, result(cell, value), status)
            canonical_json.write(
                record_of(root, cell.label, experiment), published.document(cell, entry)
            )
    return found


def record_of(root: Path, label: str, experiment: str = "study") -> Path:
    """The file of a published record."""
    method = label.rsplit("-resnet-", 1)[0].rsplit("-pixels-", 1)[0]
    return published.folder(root, "mini", experiment, method) / f"{label}.json"


def judged(root: Path, name: str = "C", track: str = "mini") -> dict[str, Any]:
    """The advice of a claim in the JSON that the project's records give."""
    written, index = load.read(root), RecordIndex(root, params.read(params.track_file(root, track)))
    compared = {own: dict.fromkeys(claim.literature, "") for own, claim in written.claims.items()}
    text = document.json(written, index.params, judge.judge(written, index), compared)
    (found,) = (entry["advice"] for entry in json.loads(text)["claims"] if entry["id"] == name)
    return dict(found)


def found(root: Path, planned: Plan, asked: Mapping[str, Any], **kept: Any) -> dict[str, Any]:
    """The claim with that advice where `study` came to what is planned."""
    stand(root, {"study": planned}, one(asked), **kept)
    return judged(root)


@contextmanager
def without(root: Path, label: str, experiment: str = "study") -> Iterator[None]:
    """A project that lacks one record for a while."""
    path = record_of(root, label, experiment)
    kept = path.read_bytes()
    path.unlink()
    try:
        yield
    finally:
        path.write_bytes(kept)


def reasons(entry: Mapping[str, Any]) -> str:
    """Why a verdict is what it is, in one line."""
    return "; ".join(entry["reasons"])
