"""The plan: which cells an experiment has, and when a cell counts as another one."""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML

from benchmark.cli import data
from benchmark.components import registry
from benchmark.config import params
from benchmark.config.params import parse
from benchmark.config.presets import PRESETS
from benchmark.config.schema import Params
from benchmark.core.errors import UserError
from benchmark.data.manifest import Manifest
from benchmark.planning import plan, sweep
from benchmark.planning.cell import Cell, Row, tasks
from benchmark.planning.configuration import Configuration, TeacherConfig
from benchmark.planning.rate_table import Result
from tests.helpers import tiny

FILES = [tiny.PROJECT / "params.yaml", *sorted(tiny.PROJECT.glob("tracks/*/params.yaml"))]


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    return tiny.real()


def tuned(found: Params) -> dict[Row, tuple[float, float]]:
    """Settings that no recipe has."""
    rows = [row for name in found.experiments for row in sweep.tunable(found, name)]
    return dict.fromkeys(rows, (0.0123, 0.00456))


def configured(cell: Cell, config: dict[str, Any]) -> Cell:
    return replace(cell, config=Configuration.model_validate(config))


def every_cell(found: Params) -> list[Cell]:
    return [cell for name in found.experiments for cell in plan.cells(found, name, tuned(found))]


def test_the_grid_is_methods_by_backbones_by_schemes_by_seeds(real: dict[str, Any]) -> None:
    found = parse(real, "params.yaml")
    for name, experiment in found.experiments.items():
        cells = plan.cells(found, name, tuned(found))
        expected: Counter[str] = Counter()
        for grid in experiment.grids:
            for method in grid.methods:
                rows = 1 if method == "raw-pixels" else len(grid.backbones) * len(grid.schemes)
                seeds = experiment.seeds_of(grid)
                expected[method] += rows * (1 if method == "raw-pixels" else len(seeds))
        assert Counter(cell.method for cell in cells) == expected


def test_further_grids_add_rows_and_none_may_come_twice() -> None:
    tree = tiny.raw()
    more = {"methods": ["simclr"], "backbones": ["resnet"], "schemes": ["bn-head-only"]}
    tree["experiments"]["leaderboard"]["also"] = [more]
    found = tiny.params(tree)
    names = [cell.label for cell in plan.cells(found, "leaderboard", tuned(found))]
    assert "simclr-resnet-bn-head-only-s0" in names
    assert "simclr-vit-bn-head-only-s0" not in names
    more["schemes"] = ["bn"]
    with pytest.raises(UserError, match="row simclr-resnet-bn twice"):
        plan.rows(tiny.params(tree), "leaderboard")


def test_further_grids_may_have_seeds_of_their_own() -> None:
    tree = tiny.raw()
    more = {
        "methods": ["simclr"],
        "backbones": ["resnet"],
        "schemes": ["bn-head-only"],
        "seeds": [7],
    }
    tree["experiments"]["leaderboard"] |= {"also": [more], "seeds": [0, 1]}
    found = tiny.params(tree)
    labels = [cell.label for cell in plan.cells(found, "leaderboard", tuned(found))]
    assert [name for name in labels if "bn-head-only" in name] == ["simclr-resnet-bn-head-only-s7"]
    assert "simclr-resnet-bn-s1" in labels
    more["seeds"] = [100]
    with pytest.raises(UserError, match=r"seeds \[100\] are reported by an experiment"):
        tiny.params(tree)


def test_a_recipe_may_have_a_batch_of_its_own() -> None:
    tree = tiny.raw()
    tree["methods"]["small"] = {"extends": "simclr", "batch_size": 4}
    tree["experiments"]["leaderboard"]["methods"] += ["small"]
    found = tiny.params(tree)
    cells = {cell.label: cell for cell in plan.cells(found, "leaderboard", tuned(found))}
    base, small = (cells[f"{name}-resnet-bn-s0"].config.as_json() for name in ("simclr", "small"))
    assert small["training"].pop("batch_size") == 4
    assert base["training"].pop("batch_size") == tiny.BATCH
    assert small == base
    with pytest.raises(UserError, match="less than one batch of 4096"):
        tiny.params(tiny.changed(tree, "methods/small/batch_size", 4096))


def test_a_recipe_can_take_the_rates_that_another_was_tuned_to() -> None:
    tree = tiny.raw()
    tree["methods"]["longer"] = {
        "extends": "simclr",
        "images_seen": 64,
        "learning_rates_from": "simclr",
    }
    tree["experiments"]["leaderboard"] |= {
        "methods": ["simclr", "longer"],
        "learning_rates": "tuned",
    }
    found = tiny.params(tree)
    rows = sweep.tunable(found, "leaderboard")
    assert {row.method for row in rows} == {"simclr"}
    cells = plan.cells(found, "leaderboard", dict.fromkeys(rows, (0.0123, 0.00456)))
    (longer,) = [cell for cell in cells if cell.label == "longer-resnet-bn-s0"]
    assert longer.config.recipe.learning_rate == 0.0123
    assert longer.config.recipe.images_seen == 64
    alone = tiny.changed(tree, "experiments/leaderboard/methods", ["longer"])
    with pytest.raises(UserError, match="no rate for simclr-resnet-bn"):
        plan.cells(tiny.params(alone), "leaderboard", {})
    with pytest.raises(
        UserError, match=r"unknown recipe of methods\.longer\.learning_rates_from 'simclrr'"
    ):
        tiny.params(tiny.changed(tree, "methods/longer/learning_rates_from", "simclrr"))
    tree["methods"]["longest"] = {"extends": "longer", "learning_rates_from": "longer"}
    with pytest.raises(UserError, match="longer, which has no rates of its own"):
        tiny.params(tree)


def test_the_key_of_a_training_leaves_out_what_is_measured_on_it() -> None:
    found = tiny.params()
    cell = plan.cells(found, "leaderboard", None)[0]
    other = replace(cell, components={**cell.components, "diagnostics": 99, "evaluation": 99})
    assert other.on("images").training_key == cell.on("images").training_key
    assert other.on("images").fingerprint != cell.on("images").fingerprint
    judged = tiny.changed(cell.config.as_json(), "evaluation/judge", "validation")
    assert configured(cell, judged).on("images").training_key == cell.on("images").training_key
    assert cell.on("images").training_key != cell.on("other images").training_key
    for key, value in (("seed", 9), ("norms", {}), ("training", None)):
        another = configured(cell, cell.config.as_json() | {key: value})
        assert another.on("images").training_key != cell.on("images").training_key
    trained = replace(cell, components={**cell.components, "training": 99})
    assert trained.on("images").training_key != cell.on("images").training_key


def test_a_recipe_that_extends_another_differs_in_what_it_names_alone() -> None:
    tree = tiny.raw()
    tree["methods"]["hot"] = {"extends": "simclr", "options": {"temperature": 0.7}}
    tree["methods"]["hot-short"] = {"extends": "hot", "images_seen": 64}
    tree["experiments"]["leaderboard"]["methods"] += ["hot", "hot-short"]
    found = tiny.params(tree)
    cells = {cell.label: cell for cell in plan.cells(found, "leaderboard", tuned(found))}
    base, hot, short = (
        cells[f"{name}-resnet-bn-s0"].config.as_json() for name in ("simclr", "hot", "hot-short")
    )
    assert hot["method"]["name"] == "simclr"
    assert hot["method"].pop("temperature") == 0.7
    base["method"].pop("temperature")
    assert hot == base
    assert short["method"].pop("temperature") == 0.7
    assert short["training"].pop("images_seen") == 64
    hot["training"].pop("images_seen")
    assert short == hot
    assert cells["hot-resnet-bn-s0"].components == cells["simclr-resnet-bn-s0"].components


def test_names_and_fingerprints_are_unique(real: dict[str, Any]) -> None:
    found = parse(real, "params.yaml")
    for name in found.experiments:
        cells = plan.cells(found, name, tuned(found))
        assert len({cell.name for cell in cells}) == len(cells)
        assert len({cell.on("images").fingerprint for cell in cells}) == len(cells)


def test_raw_pixels_has_one_cell_whatever_the_seeds_and_schemes() -> None:
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/seeds", [3, 4])
    cells = plan.cells(tiny.params(tree), "leaderboard", None)
    (pixels,) = [cell for cell in cells if cell.method == "raw-pixels"]
    assert pixels.label == "raw-pixels-pixels-none-s3"
    assert pixels.config.training is None


def test_seeds_of_the_sweep_are_never_reported(real: dict[str, Any]) -> None:
    found = parse(real, "params.yaml")
    reported = {cell.seed for cell in every_cell(found)}
    assert not reported & set(found.sweep.seeds)
    trials = [
        t
        for row in sweep.tunable(found, "leaderboard")
        for t in sweep.trials(found, "leaderboard", row, [0])
    ]
    assert {trial.cell.seed for trial in trials} == set(found.sweep.seeds)
    assert {trial.cell.config.evaluation.judge for trial in trials} == {"validation"}


def test_tuned_cells_use_the_rates_of_the_sweep_and_controls_have_none() -> None:
    tree = tiny.changed(tiny.raw(), "experiments/leaderboard/learning_rates", "tuned")
    found = tiny.params(tree)
    for cell in plan.cells(found, "leaderboard", tuned(found)):
        training = cell.config.training
        if cell.method == "raw-pixels":
            assert training is None
        else:
            assert training is not None
            assert (training.learning_rate, training.weight_decay) == (0.0123, 0.00456)
    with pytest.raises(UserError, match="no rate for simclr-resnet-bn: run `uv run dvc repro"):
        plan.cells(found, "leaderboard", {})


def test_a_scheme_gives_each_section_its_norm() -> None:
    scheme = {"backbone": {"norm": "gn", "groups": 4}, "heads": {"norm": "bn"}}
    cell = tiny.cell("simclr-resnet-bn-s0", tree=tiny.changed(tiny.raw(), "schemes/bn", scheme))
    found = cell.config.as_json()["norms"]
    assert found == {"backbone": scheme["backbone"], "projector": scheme["heads"]}
    assert set(cell.components) >= {"norm gn", "norm bn"}


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (
            {"norm": "bn", "teacher": {"statistics": "eman"}},
            "scheme bn has a teacher's policy, and simclr has no teacher",
        ),
        (
            {"norm": "bn", "layout": {"placement": "post"}},
            "scheme bn sets placement, which resnet does not have",
        ),
        (
            {"backbone": {"norm": "bn"}, "heads": {"norm": "bn"}, "predictor": {"norm": "ln"}},
            "scheme bn has a norm for the predictor, which simclr lacks",
        ),
    ],
)
def test_a_scheme_that_names_what_a_row_does_not_have_is_refused(
    scheme: dict[str, Any], said: str
) -> None:
    tree = tiny.changed(tiny.raw(), "schemes/bn", scheme)
    with pytest.raises(UserError, match=said):
        plan.cells(tiny.params(tree), "leaderboard", None)


def test_a_scheme_sets_a_teachers_policy_and_a_backbones_arguments() -> None:
    tree = tiny.raw()
    scheme = {"norm": "bn", "teacher": {"statistics": "eman"}, "layout": {"placement": "post"}}
    tree["schemes"]["special"] = scheme
    grid = {"methods": ["byol"], "backbones": ["vit"], "schemes": ["special"], "seeds": [0]}
    tree["experiments"]["special"] = {**grid, "learning_rates": "default"}
    (cell,) = plan.cells(tiny.params(tree), "special", None)
    assert cell.config.recipe.teacher == TeacherConfig(statistics="eman", shuffle=True)
    assert cell.config.backbone.options["placement"] == "post"
    assert "final_norm" not in cell.config.backbone.options  # what is at its default has no key


def fits(preset: str, backbone: str) -> bool:
    """Whether a backbone has what the preset sets of it."""
    layout = PRESETS[preset].get("layout", {})
    return set(layout) <= set(registry.facts("backbone", backbone)["options"])


def test_every_preset_is_sound_for_a_method_that_has_what_it_names() -> None:
    fingerprints = set()
    for backbone in ("resnet", "vit"):
        tree = tiny.raw()
        fitting = [name for name in PRESETS if fits(name, backbone)]
        grid = {"methods": ["byol"], "backbones": [backbone], "schemes": fitting, "seeds": [0]}
        tree["experiments"]["presets"] = {**grid, "learning_rates": "default"}
        cells = plan.cells(tiny.params(tree), "presets", None)
        found = {cell.on("images").fingerprint for cell in cells}
        assert len(found) == len(cells) == len(fitting)
        fingerprints |= found
    both = [name for name in PRESETS if fits(name, "resnet") and fits(name, "vit")]
    assert len(fingerprints) == len(PRESETS) + len(both)


@pytest.mark.parametrize("track", ["mini", "cifar10"])
def test_every_preset_builds_with_the_networks_of_a_track(track: str) -> None:
    """On the track as it is; what cannot stand somewhere says so."""
    import torch

    from benchmark.training import network

    folder = tiny.PROJECT if track == "mini" else tiny.PROJECT / "tracks" / track
    tree = dict(YAML(typ="safe", pure=True).load((folder / "params.yaml").read_text()))
    side = 28 if track == "mini" else 32
    manifest = tiny.manifest((3, side, side), "0123456789", 45_000)
    refused: dict[tuple[str, str], str] = {}
    for backbone in ("resnet", "vit"):
        for scheme in PRESETS:
            if not fits(scheme, backbone):
                continue
            grid = {"methods": ["moco"], "backbones": [backbone], "schemes": [scheme], "seeds": [0]}
            tree["experiments"] = {"presets": {**grid, "learning_rates": "default"}}
            (cell,) = plan.cells(parse(tree, "params.yaml"), "presets", None)
            try:
                with torch.device("meta"):
                    network.build(cell, manifest)
            except UserError as error:
                refused[backbone, scheme] = str(error)
    assert sorted(refused) == [
        *(("resnet", scheme) for scheme in ("frn", "in", "own", "sepnorm")),
        *(
            ("vit", scheme)
            for scheme in (
                "evonorm-s0",
                "frn",
                "frn-backbone",
                "in",
                "in-backbone",
                "own",
                "sepnorm",
            )
        ),
    ], refused


def test_a_scheme_without_a_section_that_a_method_has_is_refused() -> None:
    tree = tiny.changed(tiny.raw(), "schemes/bn", {"backbone": {"norm": "bn"}})
    with pytest.raises(UserError, match="scheme bn has no norm for the projector of simclr"):
        plan.cells(tiny.params(tree), "leaderboard", None)


# --- fingerprints


def reversed_keys(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: reversed_keys(tree[key]) for key in reversed(tree)}
    return [reversed_keys(item) for item in tree] if isinstance(tree, list) else tree


def test_fingerprint_does_not_depend_on_the_order_of_keys(real: dict[str, Any]) -> None:
    there, back = parse(real, "params.yaml"), parse(reversed_keys(real), "params.yaml")
    fingerprints = [
        {c.name: c.on("images").fingerprint for c in every_cell(found)} for found in (there, back)
    ]
    assert fingerprints[0] == fingerprints[1]


def leaves(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """The path and value of everything in a tree that is not itself a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        path = f"{above}/{key}" if above else str(key)
        if isinstance(value, dict | list):
            yield from leaves(value, path)
        else:
            yield path, value


ALTERNATIVES = {
    "float32": "bfloat16", "weights": "all", "joint": "separate", "test": "validation"
}  # fmt: skip
"""What else may stand where not every word may."""


def test_fingerprint_changes_with_every_field_of_the_configuration() -> None:
    cell = tiny.cell("simclr-resnet-bn-s0")
    seen = {cell.on("images").fingerprint}
    paths = list(leaves(cell.config.as_json()))
    assert len(paths) > 60
    for path, value in paths:
        new = ALTERNATIVES.get(value) if isinstance(value, str) else None
        changed = tiny.changed(cell.config.as_json(), path, new or other(value))
        seen.add(configured(cell, changed).on("images").fingerprint)
    assert len(seen) == len(paths) + 1


def test_fingerprint_changes_with_every_component_version_and_with_the_images() -> None:
    cell = tiny.cell("simclr-resnet-bn-s0")
    wanted = {"method simclr", "backbone resnet", "norm bn", "optimizer sgd"}
    assert set(cell.components) == wanted | {"training", "views", "evaluation", "diagnostics"}
    seen = {cell.on("images").fingerprint, cell.on("other images").fingerprint}
    for name, version in cell.components.items():
        other = replace(cell, components={**cell.components, name: f"not {version}"})
        seen.add(other.on("images").fingerprint)
    assert len(seen) == len(cell.components) + 2


def with_option(monkeypatch: pytest.MonkeyPatch, kind: str, name: str, default: str | None) -> None:
    """Lets a component have a further option, as its next version may."""
    found = copy.deepcopy(registry.catalogue(kind))
    facts = found[name]
    facts["options"] = {**facts["options"], "added": "str"}
    if default is not None:
        facts["defaults"] = {**facts.get("defaults", {}), "added": default}
    known = registry.catalogue
    monkeypatch.setattr(
        registry, "catalogue", lambda asked: found if asked == kind else known(asked)
    )


ADDED = {
    "method": "methods/simclr/options/added",
    "norm": "schemes/bn/added",
    "backbone": "backbones/resnet/arguments/added",
    "optimizer": "optimizers/sgd/added",
}
"""Where an option of each kind of component, those of the cell below, is set."""


@pytest.mark.parametrize(
    ("kind", "name"),
    [("method", "simclr"), ("norm", "bn"), ("backbone", "resnet"), ("optimizer", "sgd")],
)
def test_an_option_with_a_default_changes_no_fingerprint_until_it_is_set(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    label, tree = "simclr-resnet-bn-s0", tiny.raw()
    before = tiny.cell(label)
    with_option(monkeypatch, kind, name, "as ever")
    assert tiny.cell(label).on("images").fingerprint == before.on("images").fingerprint
    said = tiny.cell(label, tree=tiny.changed(tree, ADDED[kind], "as ever"))
    assert said.config == before.config
    other = tiny.cell(label, tree=tiny.changed(tree, ADDED[kind], "otherwise"))
    assert other.on("images").fingerprint != before.on("images").fingerprint
    new, old = ({path for path, _ in leaves(found.config.as_json())} for found in (other, before))
    new -= old
    assert new
    assert all(path.endswith("/added") for path in new)


def test_an_option_without_a_default_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with_option(monkeypatch, "method", "simclr", None)
    with pytest.raises(UserError, match="option 'added' is missing"):
        tiny.params()


def test_a_component_is_built_with_the_defaults_of_what_is_not_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}
    module = SimpleNamespace(build=lambda *positional, **options: given.update(options))
    monkeypatch.setattr(registry, "load", lambda kind, name: module)
    registry.build("backbone", "vit", embed_dim=8, placement="post")
    assert given == {
        "embed_dim": 8, "placement": "post", "final_norm": "before-pool", "mlp_norm": False,
        "qk_norm": False,
    }  # fmt: skip


def test_what_a_view_does_not_do_has_no_key() -> None:
    label, tree = "simclr-resnet-bn-s0", tiny.raw()
    before = tiny.cell(label)
    assert "blur" not in before.config.recipe.views[0]
    del tree["views"]["strong"]["blur"], tree["views"]["strong"]["solarize"]
    assert tiny.cell(label, tree=tree).config == before.config
    blurred = tiny.cell(label, tree=tiny.changed(tiny.raw(), "views/strong/blur", 0.5))
    assert blurred.config.recipe.views[0]["blur"] == 0.5
    assert blurred.on("images").fingerprint != before.on("images").fingerprint


def test_a_view_of_the_images_own_size_has_no_key() -> None:
    tree = tiny.multi_crop(tiny.raw(), "dino")
    tree["methods"]["two"] = {"extends": "dino", "views": ["strong", "strong"]}
    grid = {"methods": ["dino", "two"], "backbones": ["resnet"], "schemes": ["bn-backbone-only"]}
    tree["experiments"]["e"] = {**grid, "seeds": [0], "learning_rates": "default"}
    local, two = plan.cells(tiny.params(tree), "e", None)
    said = tiny.changed(tree, "views/strong/size", 0)
    assert plan.cells(tiny.params(said), "e", None)[1].config == two.config
    assert (local.config.recipe.sizes, two.config.recipe.sizes) == ([8], [])
    assert [view.get("size") for view in local.config.recipe.views] == [None, None, 8, 8, 8]
    # Nothing else differs, so the first two views are those of the recipe without local ones.
    views = local.config.recipe.views[:2]
    training = local.config.recipe.model_copy(update={"views": views})
    assert local.config.model_copy(update={"training": training}) == two.config
    other = plan.cells(tiny.params(tiny.changed(tree, "views/local/size", 12)), "e", None)[0]
    assert len({c.on("images").fingerprint for c in (local, two, other)}) == 3


@pytest.mark.parametrize(
    ("method", "batching"),
    [
        *((m, "joint") for m in ("simclr", "swav", "dino", "lejepa")),
        *((m, "separate") for m in ("moco", "mocov3", "byol", "simsiam", "barlow", "vicreg")),
        *((m, "separate") for m in ("rotation", "mae", "supervised")),  # of one view each
    ],
)
def test_views_are_batched_as_the_methods_paper_does_or_as_the_recipe_says(
    method: str, batching: str
) -> None:
    tree = tiny.raw()
    tree["methods"][method] = without_batching(tree["methods"][method])
    tree["methods"]["other"] = {
        "extends": method,
        "view_batching": {"joint": "separate", "separate": "joint"}[batching],
    }
    tree["methods"]["same"] = {"extends": method, "view_batching": batching}
    grid = {"methods": [method, "other", "same"], "backbones": ["resnet"], "schemes": ["bn"]}
    tree["experiments"]["e"] = {**grid, "seeds": [0], "learning_rates": "default"}
    default, other, same = plan.cells(tiny.params(tree), "e", None)
    assert default.config.recipe.view_batching == batching
    assert same.on("images").fingerprint == default.on("images").fingerprint
    assert other.config.recipe.view_batching != batching
    assert other.on("images").fingerprint != default.on("images").fingerprint


def without_batching(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != "view_batching"}


def test_what_is_not_done_in_a_training_has_no_key() -> None:
    label = "simclr-resnet-bn-s0"
    before = tiny.cell(label)
    off = {"clip_grad_norm", "weight_decay_end", "schedule", "vector_rate"}
    assert not off & set(before.config.recipe.as_json())
    for tree in (
        tiny.changed(tiny.raw(), "training/clip_grad_norm", 2.0),
        tiny.changed(tiny.raw(), "methods/simclr/clip_grad_norm", 2.0),
    ):
        assert tiny.cell(label, tree=tree).config.recipe.clip_grad_norm == 2
    both = tiny.changed(tree, "training/clip_grad_norm", 5.0)
    assert tiny.cell(label, tree=both).config.recipe.clip_grad_norm == 2
    rising = {"resnet": 0.5, "vit": 0.7}
    tree = tiny.changed(tiny.raw(), "methods/simclr/weight_decay_end", rising)
    assert tiny.cell(label, tree=tree).config.recipe.weight_decay_end == 0.5
    tree = tiny.changed(tiny.raw(), "methods/simclr/weight_decay_end", {"vit": 0.7})
    assert tiny.cell(label, tree=tree).config == before.config


@pytest.mark.parametrize(
    ("key", "default", "value"),
    [("probe", "scikit-learn", "lbfgs"), ("few_labels", [], [0.1, 0.25])],
)
def test_what_is_not_evaluated_has_no_key(key: str, default: Any, value: Any) -> None:
    label, path = "simclr-resnet-bn-s0", f"evaluation/{key}"
    before = tiny.cell(label)
    assert key not in before.config.as_json()["evaluation"]
    assert tiny.cell(label, tree=tiny.changed(tiny.raw(), path, default)).config == before.config
    changed = tiny.changed(tiny.raw(), path, value)
    after = tiny.cell(label, tree=changed)
    assert after.config.as_json()["evaluation"][key] == value
    assert after.on("images").training_key == before.on("images").training_key

    # Trials are scored by kNN alone, so none is trained again.
    def trials(tree: dict[str, Any]) -> list[str]:
        found = tiny.params(tree)
        row = Row("simclr", "resnet", "bn")
        return [
            t.cell.on("images").fingerprint
            for t in sweep.trials(found, "leaderboard", row, [-1, 0, 1])
        ]

    assert trials(changed) == trials(tiny.raw())


OWN: dict[str, tuple[Any, Any]] = {
    "warmup_fraction": (0.25, 0.1),
    "weight_decay_on": ("all", "weights"),
    "vector_rate": (0.024, 1.0),
    "schedule": ({"end": 0.001}, {"end": 0.0}),
    "optimizer": ({"resnet": "lars"}, {"resnet": "sgd"}),
}
"""What a recipe may have of its own: another value, and that of tiny's track or the default."""


@pytest.mark.parametrize("key", OWN)
def test_a_recipe_may_have_a_setting_of_its_own(key: str) -> None:
    """The usual value leaves the fingerprint as it is, another one is in the configuration."""
    label, tree = "simclr-resnet-bn-s0", tiny.raw()
    tree["optimizers"]["lars"] = {"adapt": "weights"}
    before = tiny.cell(label, tree=tree)
    value, usual = OWN[key]
    same = tiny.cell(label, tree=tiny.changed(tree, f"methods/simclr/{key}", usual))
    assert same.on("images").fingerprint == before.on("images").fingerprint
    own = tiny.cell(label, tree=tiny.changed(tree, f"methods/simclr/{key}", value))
    expected = {"name": "lars", "adapt": "weights"} if key == "optimizer" else value
    assert own.config.recipe.as_json()[key] == expected
    assert own.on("images").fingerprint != before.on("images").fingerprint
    assert set(own.components) == set(before.components) ^ (
        {"optimizer lars", "optimizer sgd"} if key == "optimizer" else set()
    )
    other = tiny.changed(tree, "methods/simclr/optimizer", {"vit": "lars"})
    assert tiny.cell(label, tree=other).config == before.config


def test_a_recipe_may_be_longer_in_one_backbone() -> None:
    tree = tiny.changed(tiny.raw(), "methods/simclr/images_seen", {"resnet": 64, "vit": 96})
    tree["experiments"]["leaderboard"]["backbones"] = ["resnet", "vit"]
    tree["methods"]["supervised"]["learning_rate"]["vit"] = 0.1
    seen = {
        cell.label: cell.config.recipe.images_seen
        for cell in plan.cells(tiny.params(tree), "leaderboard", None)
        if cell.method == "simclr" and cell.scheme == "bn"
    }
    assert seen == {"simclr-resnet-bn-s0": 64, "simclr-vit-bn-s0": 96}


def test_fingerprint_does_not_depend_on_names() -> None:
    tree = tiny.raw()
    tree["schemes"]["also-bn"] = tree["schemes"]["bn"]
    grid = tree["experiments"]["leaderboard"]
    tree["experiments"]["again"] = {**grid, "schemes": ["also-bn"]}
    ours = tiny.cell("simclr-resnet-bn-s0", tree=tree)
    theirs = tiny.cell("simclr-resnet-also-bn-s0", "again", tree)
    assert ours.name != theirs.name
    assert ours.on("images").fingerprint == theirs.on("images").fingerprint


def test_a_task_survives_being_sent() -> None:
    """A worker gets it through a pipe, and what was left out of its configuration stays out."""
    for task in tasks(plan.cells(tiny.params(), "leaderboard", None), "images"):
        arrived = pickle.loads(pickle.dumps(task))
        assert arrived == task
        assert arrived.cell.config.as_json() == task.cell.config.as_json()
        assert arrived.fingerprint == task.fingerprint


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_a_configuration_is_read_as_it_was_written(file: Path) -> None:
    cells = every_cell(params.read(file))
    assert cells
    for cell in cells:
        written = cell.config.as_json()
        read = Configuration.model_validate(written)
        assert read == cell.config
        assert read.as_json() == written
        assert json.loads(json.dumps(written)) == written


# --- every key of params.yaml is read


NOT_COMPUTED = {"title"}
"""Read by the report alone."""


def other(value: Any) -> Any:
    """Another value of the same kind that stands a chance of being allowed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    return 1.0 if value is None else f"{value}x"


def outcomes(found: Params, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Everything that the params decide: cells, the build of the images and trials of the sweep."""
    yield [(cell.name, cell.on("images").fingerprint) for cell in every_cell(found)]
    trained: list[tuple[str, str]] = []

    def train(cells: Any) -> dict[str, Result]:
        trained.extend((cell.label, cell.on("images").fingerprint) for cell in cells)
        # A best rate at the upper edge, so that extensions show.
        return {c.label: Result("", "done", c.config.recipe.learning_rate / 1e6) for c in cells}

    built: list[Any] = []

    def build(*arguments: Any) -> Manifest:
        built.append(arguments)
        return tiny.manifest(sha256="images")

    monkeypatch.setattr("benchmark.data.build.build", build)
    monkeypatch.setattr(data, "described", lambda manifest: ())
    monkeypatch.setattr(data, "remember", lambda *arguments: None)
    monkeypatch.setattr(data, "read_params", lambda arguments: found)
    data.run(argparse.Namespace(root=Path("root"), track=found.track, check=False))
    yield built
    table = [
        row
        for name in found.experiments
        for row in sweep.tune(found, name, train, lambda line: None)
    ]
    yield trained, table


def enough(experiments: dict[str, Any]) -> dict[str, Any]:
    """The grids that have a key, a method on a backbone or a scheme that none before them has."""
    met: set[tuple[str, str]] = set()

    def is_new(grid: dict[str, Any]) -> bool:
        here = {("key", key) for key in grid if key != "also"}
        here |= {("scheme", scheme) for scheme in grid["schemes"]}
        here |= set(itertools.product(grid["methods"], grid["backbones"]))
        new = here - met
        met.update(here)
        return bool(new)

    chosen = {}
    for name, experiment in experiments.items():
        new = is_new(experiment)
        if also := [grid for grid in experiment.get("also", []) if is_new(grid)]:
            chosen[name] = {**experiment, "also": also}
        elif new:
            chosen[name] = {key: value for key, value in experiment.items() if key != "also"}
    return chosen


def test_every_key_is_read(real: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Smaller grids, but with every method and backbone: each key is tried on all of them.
    real = copy.deepcopy(real)
    for experiment in real["experiments"].values():
        for grid in (experiment, *experiment.get("also", [])):
            grid["schemes"] = grid["schemes"][:1]
            if "seeds" in grid:
                grid["seeds"] = grid["seeds"][:1]
    real["experiments"]["leaderboard"]["schemes"].append("gn")
    real["experiments"] = enough(real["experiments"])
    kept = parse(real, "params.yaml").experiments.values()
    asked = {scheme for experiment in kept for scheme in experiment.every("schemes")}
    real["schemes"] = {name: spec for name, spec in real["schemes"].items() if name in asked}
    real["sweep"] |= {"seeds": real["sweep"]["seeds"][:1], "learning_rates": 3, "extensions": 1}
    before = list(outcomes(parse(real, "params.yaml"), monkeypatch))
    unread = set()
    for path, value in leaves(real):
        try:
            found = params.parse(tiny.changed(real, path, other(value)), "params.yaml")
        except UserError:
            continue
        # The sweep, which takes longest, is looked at where nothing before it has changed.
        after = outcomes(found, monkeypatch)
        if all(one == other for one, other in zip(after, before, strict=True)):
            unread.add(path)
    assert unread == NOT_COMPUTED
