"""The order of the folders: what a module may import, and that nothing imports in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

ORDER = (
    ("core",),
    ("components", "provenance"),
    ("config", "data", "norms"),
    ("backbones", "planning"),
    ("methods", "results", "scaffold"),
    ("training", "analysis", "tracking"),
    ("evaluation", "report"),
    ("diagnostics",),
    ("execution",),
    ("cli",),
    ("__main__",),
)
"""From the bottom: a folder imports those of earlier lines only."""

LEVEL = {folder: number for number, line in enumerate(ORDER) for folder in line}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((PROJECT / "benchmark").rglob("*.py")):
        parts = path.relative_to(PROJECT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def folder(module: str) -> str:
    return module.split(".")[1]


def test_every_folder_has_a_place_in_the_order() -> None:
    assert {folder(module) for module in MODULES if module != "benchmark"} == set(LEVEL)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "benchmark"])
def test_imports_go_one_way(module: str) -> None:
    for other in imported(MODULES[module]):
        if folder(other) != folder(module):
            assert LEVEL[folder(other)] < LEVEL[folder(module)], f"{module} imports {other}"


def test_no_circle_inside_a_folder_either() -> None:
    graph = {module: set(imported(path)) - {module} for module, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", [m for m, p in MODULES.items() if p.name == "__init__.py"])
def test_a_folder_says_in_one_sentence_what_it_is_for(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    text = ast.get_docstring(tree)
    assert text
    assert len(text.splitlines()) == 1
    assert module == "benchmark" or len(tree.body) == 1, "no code in the file of a folder"
