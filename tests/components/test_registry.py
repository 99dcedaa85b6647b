"""Components are found as files and described without importing them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.cli import components
from benchmark.components import registry
from benchmark.core.errors import UserError
from tests.helpers import tiny


@pytest.fixture
def norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in the place of the norms."""
    monkeypatch.setitem(registry.FOLDERS, "norm", str(tmp_path))
    caches = (registry.own, registry._with_plugins)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


def test_facts_are_read_without_importing_torch() -> None:
    code = (
        "import sys; from benchmark.cli import components; components.component_versions(); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_every_component_loads(kind: str) -> None:
    assert registry.catalogue(kind)
    for name, facts in registry.catalogue(kind).items():
        module = registry.load(kind, name)
        assert callable(module.read if kind == "source" else module.build)
        assert isinstance(facts["version"], int)


def test_adding_a_file_adds_its_components(norms: Path) -> None:
    (norms / "helper.py").write_text("X = 1\n")
    (norms / "a.py").write_text("raise SystemExit  # never run\nCOMPONENT = {'name': 'one'}\n")
    (norms / "b.py").write_text("COMPONENT = [{'name': 'two'}, {'name': 'three'}]\n")
    assert set(registry.catalogue("norm")) == {"one", "two", "three"}


def test_two_components_of_one_name_are_refused(norms: Path) -> None:
    for name in "ab":
        (norms / f"{name}.py").write_text("COMPONENT = {'name': 'same'}\n")
    with pytest.raises(ValueError, match=r"b\.py.*'same'"):
        registry.catalogue("norm")


def test_unknown_component_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown method 'simclrr'; did you mean 'simclr'"):
        registry.facts("method", "simclrr")


def test_the_versions_that_dvc_watches_are_those_of_the_code() -> None:
    watched = json.loads((tiny.PROJECT / "components.json").read_text(encoding="utf-8"))
    assert watched == components.component_versions()
