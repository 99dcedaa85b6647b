"""Which cells can be trained in micro-batches, and why others are refused in the plan."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.planning import plan
from benchmark.planning.configuration import Configuration
from benchmark.planning.sizes import check
from tests.helpers import small, tiny

GHOST = {"norm": "ghost-bn", "groups": 8, "assignment": "strided"}
BATCHES = "its loss needs the whole batch at once"
STATISTICS = "its statistics need the whole batch at once"
ALLOWED = ("rotation", "supervised", "mae", "moco", "byol", "simsiam", "dino")
REFUSED = ("simclr", "mocov3", "barlow", "vicreg", "swav", "lejepa")


def config(method: str, scheme: dict[str, Any], count: Any = 4, **recipe: Any) -> Configuration:
    """The configuration of a cell with micro-batches of 8 of 32 images."""
    tree = tiny.raw()
    tree["schemes"]["special"] = scheme
    options = recipe.pop("options", {})
    # A longer queue does not fit the images.
    tree["methods"]["moco"]["options"]["queue"] = tiny.BATCH
    tree["methods"]["mine"] = {
        "extends": method, "micro_batches": count, "options": options, **recipe,
    }  # fmt: skip
    grid = {"methods": ["mine"], "backbones": ["resnet"], "schemes": ["special"], "seeds": [0]}
    tree["experiments"]["e"] = {**grid, "learning_rates": "default"}
    (cell,) = plan.cells(tiny.params(tree), "e", None)
    return cell.config


@pytest.mark.parametrize("scheme", [{"norm": "ln"}, {"norm": "gn", "groups": 4}, GHOST])
@pytest.mark.parametrize("method", ALLOWED)
def test_a_mean_over_images_is_allowed(method: str, scheme: dict[str, Any]) -> None:
    found = config(method, scheme)
    assert found.recipe.micro_batches == 4
    check(found, 160)


@pytest.mark.parametrize("method", REFUSED)
def test_a_loss_over_the_batch_is_refused(method: str) -> None:
    with pytest.raises(UserError, match=f"^method {method}: micro_batches is 4, .* 1: {BATCHES}$"):
        check(config(method, {"norm": "ln"}), 160)
    check(config(method, {"norm": "ln"}, count=1), 160)


def test_every_method_is_allowed_or_refused() -> None:
    known = {name for name in small.OWN["method"] if registry.facts("method", name)["views"]}
    assert known == {*ALLOWED, *REFUSED}


@pytest.mark.parametrize(
    ("method", "scheme", "recipe", "said"),
    [
        (
            "byol",
            {"norm": "ln"},
            {"count": 5},
            "^training: micro_batches is 5, expected a number that divides the batch size 32$",
        ),
        (
            "byol",
            {"norm": "ln"},
            {"options": {"loss_norm": "batch"}},
            f"^method byol: micro_batches is 4, expected 1: with loss_norm batch, {BATCHES}$",
        ),
        (
            "byol",
            {"norm": "bn"},
            {},
            f"^norm bn in the backbone: micro_batches is 4, expected 1: {STATISTICS}$",
        ),
        (
            "byol",
            {"backbone": {"norm": "ln"}, "heads": {"norm": "bn"}},
            {},
            f"^norm bn in the predictor: micro_batches is 4, expected 1: {STATISTICS}$",
        ),
        (
            "mae",
            {"norm": "batch-renorm", "r_max": 3.0, "d_max": 5.0, "start": 1, "end": 3},
            {},
            f"^norm batch-renorm in the backbone: micro_batches is 4, expected 1: {STATISTICS}$",
        ),
        (
            "mae",
            {"norm": "sepnorm"},
            {},
            f"^norm sepnorm in the backbone: micro_batches is 4, expected 1: {STATISTICS}$",
        ),
        (
            "byol",
            {**GHOST, "groups": 2},
            {},
            "groups is 2, expected a multiple of the micro_batches 4$",
        ),
        (
            "byol",
            {**GHOST, "groups": 4, "assignment": "contiguous"},
            {"view_batching": "joint"},
            r"groups is 4, expected a multiple of the micro_batches 4 × 2 \(contiguous groups\)$",
        ),
        (
            "rotation",
            GHOST,
            {"options": {"rotations": 4}},
            r"groups is 8, expected a multiple of the micro_batches 4 × 4 \(strided groups\)$",
        ),
        (
            "byol",
            {"backbone": GHOST, "heads": {**GHOST, "assignment": "contiguous"}},
            {},
            "^training: micro_batches is 4, expected 1: contiguous and strided groups cannot be",
        ),
        (
            "dino",
            GHOST,
            {"views": ["strong", "strong", "strong"]},
            "micro_batches is 4, expected 1: its groups are of views of several sizes$",
        ),
    ],
)
def test_what_would_change_a_step_is_refused(
    method: str, scheme: dict[str, Any], recipe: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check(config(method, scheme, **recipe), 160)


@pytest.mark.parametrize(
    ("method", "scheme", "recipe"),
    [
        ("byol", {**GHOST, "assignment": "contiguous"}, {"view_batching": "joint"}),
        ("byol", {**GHOST, "groups": 4}, {"view_batching": "joint"}),
        ("rotation", {**GHOST, "groups": 16}, {"options": {"rotations": 4}}),
        (
            "rotation",
            {**GHOST, "groups": 4, "assignment": "contiguous"},
            {"options": {"rotations": 4}},
        ),
        ("byol", {"backbone": GHOST, "heads": {**GHOST, "groups": 4}}, {}),
    ],
)
def test_whole_groups_are_allowed(
    method: str, scheme: dict[str, Any], recipe: dict[str, Any]
) -> None:
    check(config(method, scheme, **recipe), 160)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "2"])
@pytest.mark.parametrize("key", ["training", "methods/byol"])
def test_a_wrong_number_is_named(key: str, count: Any) -> None:
    said = rf"{key.replace('/', '.')}\.micro_batches is {count!r}"
    with pytest.raises(UserError, match=said):
        tiny.params(tiny.changed(tiny.raw(), f"{key}/micro_batches", count))


def test_one_micro_batch_has_no_key() -> None:
    """So that no fingerprint changes."""
    label = "simclr-resnet-bn-s0"
    before = tiny.cell(label)
    assert "micro_batches" not in before.config.recipe.as_json()
    tree = tiny.changed(tiny.raw(), "training/micro_batches", 1)
    assert tiny.cell(label, tree=tree).on("x").fingerprint == before.on("x").fingerprint
    tree["training"]["micro_batches"] = 4
    divided = tiny.cell(label, tree=tree)
    assert divided.config.recipe.as_json()["micro_batches"] == 4
    assert divided.on("x").fingerprint != before.on("x").fingerprint
    # A recipe has the last word.
    tree["methods"]["simclr"]["micro_batches"] = 1
    assert tiny.cell(label, tree=tree).config == before.config
    tree["methods"]["simclr"]["micro_batches"] = 2
    assert tiny.cell(label, tree=tree).config.recipe.micro_batches == 2
