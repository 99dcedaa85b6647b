"""The names of timm's models, read from its source: importing timm takes seconds."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from pathlib import Path

from benchmark.core.errors import UserError

REGISTERED = re.compile(r"^@register_model\s*\n(?:@.*\n)*def (\w+)", re.MULTILINE)


@functools.cache
def names() -> frozenset[str]:
    """Every name that `timm.create_model` takes, of the installed version."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise UserError("timm is not installed")
    sources = sorted((Path(spec.origin).parent / "models").glob("*.py"))
    return frozenset(
        name for path in sources for name in REGISTERED.findall(path.read_text(encoding="utf-8"))
    )


def check(name: str, others: frozenset[str]) -> None:
    """Raises UserError for a name that is neither a model of timm nor one of `others`."""
    if name in names():
        return
    near = difflib.get_close_matches(name, names() | others, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise UserError(
        f"unknown model {name!r}{hint} (the models of timm, and {', '.join(sorted(others))}; a "
        "plug-in's needs `--plugin FILE`)"
    )
