"""A file with initial weights in `params.yaml`: what `plan` checks without reading it, and records."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest

from benchmark.config.params import parse
from benchmark.core import canonical_json
from benchmark.core.errors import ParamsError, UserError
from benchmark.planning.plan import cells
from tests.helpers import tiny

SHA = hashlib.sha256(b"weights").hexdigest()
GIVEN = {"weights": "private/file.pth", "sha256": SHA}


def tree(method: str = "simclr", scheme: str = "bn", **entry: Any) -> dict[str, Any]:
    """Params with one row, whose backbone has a file with its initial weights."""
    found = tiny.raw()
    found["backbones"]["resnet"] |= GIVEN | entry
    found["methods"]["pretrained"] = {"options": {}}
    found["experiments"]["leaderboard"] |= {"methods": [method], "schemes": [scheme]}
    return found


def planned(given: dict[str, Any]) -> Any:
    return cells(tiny.params(given), "leaderboard", None)[0]


@pytest.mark.parametrize("method", ["simclr", "pretrained"])
def test_the_checksum_is_in_the_cell_and_the_path_is_not(method: str) -> None:
    cell = planned(tree(method))
    assert cell.config.as_json()["backbone"]["weights_sha256"] == SHA
    assert cell.components["weights"] == 1
    written = canonical_json.compact([cell.config.as_json(), dict(cell.components)])
    assert "private" not in written
    assert cell.weights == GIVEN["weights"]
    # Another path is the same cell, another file is another one.
    assert planned(tree(method, weights="hf-hub:timm/x")).on("d").fingerprint == (
        cell.on("d").fingerprint
    )
    other = planned(tree(method, sha256="0" * 64)).on("d")
    assert other.fingerprint != cell.on("d").fingerprint
    assert other.training_key != cell.on("d").training_key


def test_a_backbone_without_a_file_has_the_cell_that_it_always_had() -> None:
    found = planned(tiny.raw())
    assert set(found.config.as_json()["backbone"]) == {
        "model", "channels", "layers", "stem_kernel", "stem_stride", "stem_pool",
    }  # fmt: skip
    assert "weights" not in found.components
    with_file = planned(tree())
    without = with_file.config.as_json()
    del without["backbone"]["weights_sha256"]
    assert without == found.config.as_json()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"sha256": None}, "private/file.pth': No such file or directory"),
        ({"weights": None}, "sha256 is the checksum of a file, and it has no weights"),
        ({"sha256": "123"}, "backbones.resnet.sha256 is '123'"),
        ({"sha256": SHA.upper()}, "backbones.resnet.sha256 is"),
        ({"weights": 3}, "backbones.resnet.weights is 3"),
        ({"weights": "file.npz"}, "weights is 'file.npz', expected a file whose name ends in"),
        ({"weights": "hf-hub:timm"}, "or hf-hub:OWNER/NAME"),
    ],
    ids=str,
)
def test_wrong_entries_are_refused(entry: dict[str, Any], said: str) -> None:
    given = tree(**entry)
    backbone = given["backbones"]["resnet"]
    given["backbones"]["resnet"] = {k: v for k, v in backbone.items() if v is not None}
    with pytest.raises(UserError) as refused:
        tiny.params(given)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_checksum_is_told(tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(b"weights")
    given = tree(weights=str(tmp_path / "file.pth"))
    del given["backbones"]["resnet"]["sha256"]
    with pytest.raises(UserError, match=f"has no sha256 beside it; .* `sha256: {SHA}`"):
        tiny.params(given)


PLUGIN = """
COMPONENT = {"kind": "backbone", "name": "mine", "version": 1, "options": {}, "normalized": False}
"""


def test_a_backbone_that_cannot_load_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.setenv("BENCHMARK_PLUGINS", str(tmp_path / "mine.py"))
    given = tree()
    given["backbones"]["resnet"] |= {"model": "mine", "arguments": {}}
    with pytest.raises(UserError, match="resnet: mine: its weights cannot come from a file"):
        parse(given, "params.yaml")


@pytest.mark.parametrize(
    ("method", "scheme", "entry", "said"),
    [
        ("pretrained", "bn", {"weights": None, "sha256": None}, "resnet has no weights, which"),
        ("untrained", "bn", {}, "resnet has weights, so that its control is `pretrained`"),
        ("simclr", "bn-zero", {}, "resnet has weights, so that branch_gain 0 would change nothing"),
    ],
)
def test_what_does_not_fit_weights_is_refused_by_plan(
    method: str, scheme: str, entry: dict[str, Any], said: str
) -> None:
    given = tree(method, scheme)
    backbone = given["backbones"]["resnet"] | entry
    given["backbones"]["resnet"] = {k: v for k, v in backbone.items() if v is not None}
    with pytest.raises(ParamsError, match=f"^{method}-resnet-{scheme}: backbones.{said}"):
        planned(given)


def test_a_control_under_another_name_is_a_control_too() -> None:
    given = tree("start")
    given["methods"]["start"] = {"extends": "pretrained"}
    assert planned(given).config.method.name == "pretrained"
    given["methods"]["start"] = {"extends": "untrained"}
    with pytest.raises(ParamsError, match="its control is `pretrained`"):
        planned(given)


@pytest.mark.parametrize(
    "values",
    [
        {"backbones.resnet.weights": "private/a.pth"},
        {"backbones.resnet": None},
        {"backbones": None},
    ],
)
def test_a_path_from_the_command_line_is_not_published(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    from benchmark.config import params

    tiny.write_params(tmp_path, tree())
    inner = copy.deepcopy(tree()["backbones"])
    given = [
        f"{key}={canonical_json.compact(value or {'backbones': inner}.get(key, inner['resnet']))}"
        for key, value in values.items()
    ]
    found = params.read(tmp_path / "params.yaml", given)
    assert "private" not in canonical_json.compact(dict(found.overrides))
    assert set(found.overrides) == set(values)
    assert found.backbones["resnet"].weights
