"""Reads module-level literals from Python source, without running it."""

from __future__ import annotations

import ast
from typing import Any


def literal(source: bytes, name: str) -> Any:
    """The value of the module-level literal `name`; None if there is none.

    Raises SyntaxError if the source is not Python, ValueError if the value is not a literal.
    """
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return ast.literal_eval(node.value)
    return None
