"""Cells that are also fine-tuned, or judged on another track's images."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.core.errors import ParamsError, UserError
from benchmark.planning import plan, sizes, sweep
from tests.helpers import tiny

SHA = "ab" * 32
RECIPE = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rates": [0.01, 0.1],
    "warmup_fraction": 0.0,
    "weight_decay": 0.0,
    "view": "weak",
    "norms": "batch",
}


def tree(**changes: Any) -> dict[str, Any]:
    """Tiny params whose ResNet is fine-tuned."""
    found = tiny.raw()
    found["evaluation"] |= {"finetune": {"resnet": RECIPE | changes}, "transfer": {"other": SHA}}
    return found


def cells(found: dict[str, Any]) -> dict[str, Any]:
    return {c.label: c for c in plan.cells(tiny.params(found), "leaderboard", None)}


def test_only_what_is_asked_for_is_in_a_cell() -> None:
    """Neither pixels, which have no weights, nor trials of a sweep are fine-tuned."""
    plain, asked = cells(tiny.raw()), cells(tree())
    assert plain.keys() == asked.keys()
    for label, cell in plain.items():
        before, after = cell.config.as_json(), asked[label].config.as_json()
        added = {k: v for k, v in after["evaluation"].items() if k not in before["evaluation"]}
        assert set(added) == {"transfer"} | ({"finetune"} if "resnet" in label else set())
        after["evaluation"] = before["evaluation"]
        assert before == after
        # The training is the same one, and is not run again.
        assert cell.on("images").training_key == asked[label].on("images").training_key
        assert cell.on("images").fingerprint != asked[label].on("images").fingerprint
    one = asked["simclr-resnet-bn-s0"].config.evaluation.finetune
    assert one.optimizer.name == "sgd"
    assert one.training(0.1, 2, 100).steps == 25
    row = plan.rows(tiny.params(tree()), "leaderboard")[0]
    trials = [
        sweep.trials(tiny.params(t), "leaderboard", row, [0])[0].cell for t in (tiny.raw(), tree())
    ]
    assert trials[0].on("images").fingerprint == trials[1].on("images").fingerprint


def test_another_optimizer_of_the_fine_tuning_changes_no_training() -> None:
    plain, asked = (cells(t)["simclr-resnet-bn-s0"] for t in (tiny.raw(), tree(optimizer="adamw")))
    assert asked.components["finetune optimizer adamw"] == 1
    assert plain.on("images").training_key == asked.on("images").training_key


REFUSED = [
    ({"resnet": RECIPE | {"view": "stong"}}, "unknown view in evaluation.finetune.resnet 'stong'"),
    ({"resnet": RECIPE | {"optimizer": "sdg"}}, "unknown optimizer in evaluation.finetune.resnet"),
    ({"resnt": RECIPE}, "unknown backbone in evaluation.finetune 'resnt'"),
    ({"resnet": RECIPE | {"norms": "eval"}}, "evaluation.finetune.resnet.norms is 'eval'"),
    ({"resnet": RECIPE | {"learning_rates": []}}, "learning_rates is []"),
    ({"resnet": RECIPE | {"layer_decay": 1.5}}, "layer_decay is 1.5"),
    ({"resnet": RECIPE | {"labels": [{"share": 0.5, "epochs": 1}] * 2}}, "0.5 is listed twice"),
    ({"resnet": RECIPE | {"view": "small"}}, "view small has size 8, expected the images' own"),
]


@pytest.mark.parametrize(("recipes", "said"), REFUSED)
def test_a_wrong_recipe_is_refused(recipes: dict[str, Any], said: str) -> None:
    found = tiny.raw()
    found["views"]["small"] = found["views"]["weak"] | {"size": 8}
    found["evaluation"]["finetune"] = recipes
    with pytest.raises(UserError) as error:
        tiny.params(found)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("transfer", [{"other": "ab"}, {"mini": SHA}])
def test_a_wrong_track_or_checksum_is_refused(transfer: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"evaluation\.transfer"):
        tiny.params(tiny.changed(tiny.raw(), "evaluation/transfer", transfer))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 200}, "batch_size is 200, expected at most the 160 training images"),
        (
            {"labels": [{"share": 0.04, "epochs": 1}]},
            "batch_size is 8, expected at most the 6 training images at share 0.04",
        ),
    ],
)
def test_a_batch_larger_than_the_images_is_refused(changes: dict[str, Any], said: str) -> None:
    cell = cells(tree(**changes))["simclr-resnet-bn-s0"]
    with pytest.raises(ParamsError, match=said):
        sizes.check(cell.config, 160)
    sizes.check(cell.config, None)


@pytest.mark.parametrize("norms", ["frozen", "batch"])
def test_groups_must_divide_the_batch_where_they_normalize_it(norms: str) -> None:
    found = tree(batch_size=12, norms=norms)
    found["experiments"]["leaderboard"]["schemes"] = ["bn-of-8"]
    cell = cells(found)["simclr-resnet-bn-of-8-s0"]
    if norms == "frozen":
        sizes.check(cell.config, 160)
        return
    with pytest.raises(ParamsError, match=r"divides evaluation\.finetune: batch_size 12"):
        sizes.check(cell.config, 160)
