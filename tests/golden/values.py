"""Computes the golden values, and writes them: `python -m tests.golden.values`.

For every method × backbone × uniform preset that is legal, the loss and each section's gradient norm at
steps 1 and 2 of a tiny cell in double precision; and the numbers of the parts that those cells do not
pass through (views, evaluation). Beside the numbers stand the versions that made them, so that the
numbers may change only together with a version.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmark.components import registry
from benchmark.config.presets import UNIFORM
from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.core.randomness import keyed
from benchmark.data.augment import view
from benchmark.diagnostics.diagnose import diagnose
from benchmark.evaluation.evaluate import evaluate
from benchmark.methods.base import Method
from benchmark.planning import plan
from benchmark.training.network import parameter_groups
from tests.helpers import small

FILE = Path(__file__).with_name("values.json")

OPTIMIZERS = {
    "resnet": ("sgd", {"momentum": 0.9, "nesterov": False}),
    "vit": ("adamw", {"beta1": 0.9, "beta2": 0.95}),
}
RATES = {"sgd": 0.05, "adamw": 2e-3}

VIEWS = {
    "crop_scale": [0.2, 1.0], "crop_ratio": [0.75, 1.3333], "flip": 0.5, "jitter": 0.8,
    "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1,
    "grayscale": 0.2, "blur": 0.5, "solarize": 0.2,
}  # fmt: skip

DIAGNOSED = ("simclr", "moco", "mae")
"""Methods whose diagnostics are among the values."""

Entry = dict[str, Any]
"""`components`: versions by name. `values`: numbers by name."""


def names() -> Iterator[tuple[str, str, str]]:
    """Every method × backbone × uniform preset, legal or not."""
    return itertools.product(small.TRAINED, small.BACKBONES, UNIFORM)


def cell(method: str, backbone: str, preset: str) -> Entry | None:
    """The golden entry of one combination, None where it is not legal."""
    spec = dict(UNIFORM[preset])
    # The tiny networks are too narrow for the presets' groups.
    spec |= {"groups": min(spec["groups"], 4)} if "groups" in spec else {}
    try:
        network = small.build(method, backbone, preset, spec=spec).double()
    except UserError:
        return None
    optimizer_name, options = OPTIMIZERS[backbone]
    groups = parameter_groups(network, 0.01, "weights")
    optimizer = registry.load("optimizer", optimizer_name).build(
        groups, RATES[optimizer_name], **options
    )
    values: dict[str, float] = {}
    for step in range(2):
        batch = small.batch(method, step)
        optimizer.zero_grad()
        outcome = network(batch._replace(views=[one.double() for one in batch.views]))
        outcome.loss.backward()
        values[f"loss {step + 1}"] = float(outcome.loss.detach())
        for section, norm in gradient_norms(network).items():
            values[f"gradient of {section} {step + 1}"] = norm
        optimizer.step()
        network.after_step(batch.progress)
    components = {
        f"method {method}": _version("method", method),
        f"backbone {backbone}": _version("backbone", backbone),
        f"norm {spec['norm']}": _version("norm", spec["norm"]),
        f"optimizer {optimizer_name}": _version("optimizer", optimizer_name),
        "training": plan.part_version("training"),
    }
    return {"components": components, "values": values}


def gradient_norms(network: nn.Module) -> dict[str, float]:
    """The length of the gradient of each part of a method, by its name."""
    squares: dict[str, float] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and parameter.grad is not None:
            section = name.split(".")[0]
            squares[section] = squares.get(section, 0.0) + float(parameter.grad.square().sum())
    return {section: math.sqrt(square) for section, square in squares.items()}


def views() -> Entry:
    """Means and deviations of views of smooth colour images, each operation's draws included."""
    coarse = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
    values: dict[str, float] = {}
    for number in range(2):
        made = view(images, VIEWS, keyed(0, "view", number, 0)).double()
        values |= {f"mean {number}": float(made.mean()), f"deviation {number}": float(made.std())}
        values[f"corner {number}"] = float(made[:, :, 0, 0].mean())
    return {"components": {"views": plan.part_version("views")}, "values": values}


def evaluation() -> Entry:
    """The metrics of an untrained backbone on images whose brightness tells their class."""
    splits = made_up()
    network = small.encoder("resnet", "bn")
    found = evaluate(network, splits, small.EVALUATION, lambda x: (x - 0.3) / 0.2).metrics
    values = {key: float(value) for key, value in found.items() if isinstance(value, float | bool)}
    used = {"backbone resnet": _version("backbone", "resnet"), "norm bn": _version("norm", "bn")}
    return {
        "components": {"evaluation": plan.part_version("evaluation"), **used},
        "values": values,
    }


def diagnostics() -> Entry:
    """The diagnostics of untrained networks on the same images, in double precision."""
    views = {"views": [VIEWS, VIEWS]}
    config = small.configuration("simclr", "resnet", "ghost-bn", training=views)
    values: dict[str, float] = {}
    used = [("backbone", "resnet"), ("norm", "ghost-bn")]
    used += [("method", method) for method in DIAGNOSED]
    for method in DIAGNOSED:
        made = functools.partial(_stirred, method)
        found = diagnose(made(0), config, made_up(), lambda x: (x.double() - 0.3) / 0.2, made)
        values |= {f"{method} {name}": value for name, value in _flat(found)}
    return {
        "components": {
            "diagnostics": plan.part_version("diagnostics"),
            **{f"{kind} {name}": _version(kind, name) for kind, name in used},
        },
        "values": values,
    }


def _version(kind: str, name: str) -> int:
    return int(registry.facts(kind, name)["version"])


def _stirred(method: str, seed: int = 1) -> Method:
    network = small.build(method, "resnet", "ghost-bn").double()
    small.stir(network, seed)
    return network


def _flat(measures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Nested numbers by their path, without nulls."""
    for name, value in measures.items():
        if isinstance(value, dict):
            yield from ((f"{name} {rest}", number) for rest, number in _flat(value))
        elif value is not None:
            yield name, float(value)


def made_up() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Splits of noise whose brightness tells their class."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for name, count in (("train", 60), ("validation", 30), ("test", 30)):
        labels = torch.arange(count) % 3
        noise = torch.randint(0, 120, (count, 3, small.SIDE, small.SIDE), generator=generator)
        splits[name] = ((noise + 20 * labels[:, None, None, None]).to(torch.uint8), labels)
    return splits


def compute() -> dict[str, Entry]:
    """Every golden entry by name."""
    found = {"views": views(), "evaluation": evaluation(), "diagnostics": diagnostics()}
    for combination in names():
        entry = cell(*combination)
        if entry is not None:
            found["-".join(combination)] = entry
    return found


def stored() -> dict[str, Entry]:
    """The entries as they are kept."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def differs(old: Entry, new: Entry) -> list[str]:
    """The names of the values that are not the same to 2e-5.

    timm takes EvoNorm's deviation in single precision: there CPUs of two vendors came out 7e-6 apart.
    """
    keys = old["values"].keys() | new["values"].keys()
    missing = float("nan")
    pairs = {
        key: (old["values"].get(key, missing), new["values"].get(key, missing)) for key in keys
    }
    return sorted(
        key for key, (a, b) in pairs.items() if not math.isclose(a, b, rel_tol=2e-5, abs_tol=1e-9)
    )


def suspects(old: dict[str, Entry], new: dict[str, Entry], changed: set[str]) -> list[str]:
    """Components that may have changed the entries: all of their own did.

    Left out are those whose entries are a part of another such component's, which explains them.
    """
    users: dict[str, set[str]] = {}
    for name, entry in new.items():
        if name in old:
            for component in entry["components"]:
                users.setdefault(component, set()).add(name)
    wholly = {component: names for component, names in users.items() if names <= changed}
    return sorted(
        component
        for component, names in wholly.items()
        if not any(names < others for others in wholly.values())
    )


def main() -> None:
    """Writes the values; entries may change only where a version did."""
    torch.set_num_threads(1)
    new = compute()
    old = stored() if FILE.is_file() else {}
    unbumped = {
        name
        for name in old.keys() & new.keys()
        if old[name]["components"] == new[name]["components"] and differs(old[name], new[name])
    }
    if unbumped:
        sys.exit(
            f"{len(unbumped)} entries changed without a version, e.g. {min(unbumped)}; "
            f"raise the version of: {', '.join(suspects(old, new, unbumped)) or 'a component'}"
        )
    # The last digits differ between machines: what did not change keeps the ones it has.
    same = {n for n in old.keys() & new.keys() if old[n]["components"] == new[n]["components"]}
    canonical_json.write(FILE, canonical_json.pretty(new | {name: old[name] for name in same}))
    print(f"{len(new)} entries")


if __name__ == "__main__":
    main()
