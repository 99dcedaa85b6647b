"""A file for each kind of plug-in. It works as it is, so that a user replaces its parts one by one."""

from __future__ import annotations

import shlex
from pathlib import Path

from benchmark.components import registry
from benchmark.components.facts import NAME
from benchmark.core.errors import UserError
from benchmark.scaffold.render import render

PARAMS = {
    "norm": """\
schemes:
  {name}: {{norm: {name}}}""",
    "method": """\
methods:
  {name}:
    images_seen: 32000
    views: [strong, strong]
    learning_rate: {{resnet: 0.1}}
    weight_decay: {{resnet: 5.0e-4}}
    options: {{temperature: 0.2, output: 64}}""",
    "source": """\
data:
  source: {name}
  options: {{count: 400}}
  splits: {{train: 0.7, validation: 0.15, test: 0.15}}
  seed: 0""",
    "backbone": """\
backbones:
  {name}:
    model: {name}
    optimizer: sgd
    arguments: {{width: 32}}""",
    "optimizer": """\
optimizers:
  {name}: {{momentum: 0.9}}""",
}
"""The lines of `params.yaml` that use a plug-in as it is written."""

ALSO = {
    "norm": "name it under `schemes` of an experiment",
    "method": "name it under `methods` of an experiment",
    "source": "of a track whose backbones fit 16 pixels",
    "backbone": "give each recipe a learning_rate and a weight_decay for it, and name it under "
    "`backbones` of an experiment",
    "optimizer": "name it as the `optimizer` of a backbone; learning rates are of another size then",
}
"""What else `params.yaml` needs."""

TESTS = {
    "norm": "tests/norms/test_catalogue.py",
    "method": "tests/methods/test_gradients.py",
    "source": "tests/data/test_sources.py",
    "backbone": "tests/training/test_network.py",
    "optimizer": "tests/training/test_optimizers.py",
}
"""The tests that every component of a kind passes, in the project's folder."""


def write(kind: str, name: str, out: Path | None) -> str:
    """Writes a plug-in to `out`, or else to NAME.py, and returns how to use and test it.

    Raises UserError for a name that is wrong or taken, and for a file that exists.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"NAME is {name!r}, expected letters, digits and - _ . between them")
    if name in registry.catalogue(kind):
        raise UserError(f"NAME is {name!r}, expected a new name: this {kind} exists")
    file = out or Path(name.replace("-", "_").replace(".", "_") + ".py")
    if file.suffix != ".py":
        raise UserError(f"--out is {str(file)!r}, expected a Python file, *.py")
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(render(f"{kind}.py.j2", name=name))
    except FileExistsError:
        raise UserError(f"{file} exists: choose another name or --out FILE") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"--out is {str(file)!r}, and there is no folder {file.parent}") from None
    shown = shlex.quote(str(file))
    run = f"uv run benchmark --plugin {shown}"
    lines = [
        f"{file}: the {kind} {name}, which works as it is",
        "",
        f"In params.yaml, under the existing keys ({ALSO[kind]}):",
        "",
        PARAMS[kind].format(name=name),
        "",
        *([f"build  {run} data TRACK"] if kind == "source" else []),
        f"train  {run} train --track TRACK --experiment NAME",
        f"test   BENCHMARK_PLUGINS={shown} uv run pytest {TESTS[kind]} -k {name}",
        "",
        "BENCHMARK_PLUGINS also names the file for `uv run dvc repro`. More: docs/extending.md",
    ]
    return "\n".join(lines)
