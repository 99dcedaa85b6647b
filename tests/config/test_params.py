"""What is wrong in params.yaml is said in one line that names the key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmark.components import registry
from benchmark.config.params import parse, read
from benchmark.config.validate import view_defaults
from benchmark.core.errors import UserError
from tests.helpers import tiny

NAN, INF = float("nan"), float("inf")

WRONG: list[tuple[str, Any, str]] = [
    # unknown keys and names, with the nearest one
    ("titl", "x", "'titl'; did you mean 'title'"),
    ("training/batch_sizes", 3, "'training.batch_sizes'; did you mean 'training.batch_size'"),
    ("data/splits/trian", 30, "did you mean 'data.splits.train'"),
    ("methods/simclr/images_sen", 3, "did you mean 'methods.simclr.images_seen'"),
    ("methods/simclr/options/temprature", 0.2, "did you mean 'temperature'"),
    ("methods/simclrr", {"options": {}}, "method 'simclrr'; did you mean 'simclr'"),
    ("schemes/gn", {"norm": "gnn", "groups": 8}, "norm 'gnn'; did you mean 'gn'"),
    ("schemes/bn", {"bakbone": {"norm": "bn"}}, "'bakbone'; did you mean 'backbone'"),
    ("backbones/resnet/model", "resnett", "unknown model 'resnett'; did you mean resnet, "),
    ("optimizers/sgd/name", "sdg", "optimizer 'sdg'; did you mean 'sgd'"),
    ("optimizers/sdg", {}, "optimizer 'sdg'; did you mean 'sgd'"),
    ("backbones/resnet/optimizer", "sdg", "optimizer of backbone resnet 'sdg'; did you mean 'sgd'"),
    ("data/source", "minni", "source 'minni'; did you mean 'mini'"),
    ("views/strong/jiter", 0.5, "did you mean 'jitter'"),
    ("methods/simclr/views/1", "strng", "'strng'; did you mean 'strong'"),
    ("methods/simclr/learning_rate/resnett", 0.1, "'resnett'; did you mean 'resnet'"),
    ("experiments/leaderboard/methods/0", "mocoo", "'mocoo'; did you mean 'moco'"),
    ("methods/mine", {"extends": "moco", "optionss": {}}, "did you mean 'methods.mine.options'"),
    ("methods/simclr", {"extends": "mocoo"}, "'mocoo'; did you mean 'moco'"),
    ("methods/simclr", {"extends": "simclr"}, "simclr extends simclr, which extends simclr"),
    ("methods/mine", {"extends": "moco", "options": {"momentun": 0.0}}, "did you mean 'momentum'"),
    ("methods/simclr", {"extend": "moco"}, "did you mean 'methods.simclr.extends'"),
    ("methods/simclr", {"extends": "moco"}, "simclr is a method, so it cannot extend moco"),
    ("schemes/ab c", {"norm": "bn"}, r"schemes\.ab c is 'ab c': expected letters"),
    (
        "backbones/pixels",
        {"model": "resnet", "optimizer": "sgd", "arguments": {}},
        "pixels is the backbone of controls without a network",
    ),
    ("track", "../mini", r"track is '\.\./mini': expected letters"),
    ("experiments/leaderboard/schemes/0", "rms-norm", "did you mean 'rmsnorm'"),
    ("methods/simclr/options/hidden", 10**400, "hidden is 1000"),
    ("experiments/leaderboard/also", [{"methods": ["simclr"]}], r"also\.0\.backbones' is missing"),
    (
        "experiments/leaderboard/also",
        [{"methods": ["simclr"], "backbones": ["vit"], "schemes": ["bbn"]}],
        "'bbn'; did you mean 'bn'",
    ),
    ("experiments/leaderboard/backbones/0", "vitt", "'vitt'; did you mean 'vit'"),
    ("experiments/leaderboard/schemes/0", "none-plane", "did you mean 'none-plain'"),
    # wrong types
    ("training/batch_size", "64", r"training\.batch_size is '64'"),
    ("training/batch_size", True, r"training\.batch_size is True"),
    ("training/batch_size", 64.0, r"training\.batch_size is 64\.0"),
    ("methods/simclr/images_seen", True, r"methods\.simclr\.images_seen is True"),
    ("methods/simclr/images_seen", {"resnet": 64, "vit": "64"}, r"\.images_seen\.vit is '64'"),
    ("methods/simclr/images_seen", {"resnet": 64, "vitt": 64}, "'vitt'; did you mean 'vit'"),
    ("methods/simclr/images_seen", {"resnet": 64, "vit": 10}, r"images_seen\.vit is 10, less than"),
    ("methods/simclr/images_seen", {"resnet": 64}, r"simclr[-\w.]*\.images_seen has no 'vit'"),
    (
        "methods/simclr/learning_rate/resnet",
        "0.1",
        r"methods\.simclr\.learning_rate\.resnet is '0\.1'",
    ),
    ("backbones/resnet/arguments/channels", 16, "channels is 16"),
    ("backbones/resnet/arguments/channels/0", "a", "channels is 'a'"),
    ("schemes/gn/groups", True, "groups is True"),
    ("schemes/gn/groups", 8.0, r"groups is 8\.0"),
    ("schemes/bn", "bn", r"schemes\.bn is 'bn'"),
    ("schemes/bn", {"backbone": "bn"}, r"bn\.backbone is 'bn'"),
    ("schemes/bn", {"norm": ["bn"]}, "bn"),
    ("data/splits/train", True, r"data\.splits\.train is True"),
    ("data/seed", "0", r"data\.seed is '0'"),
    ("title", 5, "title is 5"),
    ("methods", None, "methods is None"),
    ("methods/rotation/options/rotations", True, "rotations"),
    # out of range
    ("training/batch_size", 1, r"training\.batch_size is 1"),
    ("training/warmup_fraction", 1.0, r"training\.warmup_fraction is 1\.0"),
    ("training/warmup_fraction", NAN, r"training\.warmup_fraction is nan"),
    ("training/clip_grad_norm", -1.0, r"training\.clip_grad_norm is -1\.0"),
    ("training/precision", "float16", "precision is 'float16'.*'bfloat16'"),
    ("evaluation/knn_temperature", INF, r"evaluation\.knn_temperature is inf"),
    ("evaluation/probe_c", [1.0, 2.0], r"evaluation\.probe_c"),
    ("evaluation/probe_c", [-1.0, 1.0, 2.0], r"evaluation\.probe_c"),
    ("evaluation/knn_k", [20], r"evaluation\.knn_k"),
    ("evaluation/knn_k", [0, 20], r"evaluation\.knn_k"),
    ("methods/simclr/learning_rate/resnet", NAN, r"methods\.simclr\.learning_rate\.resnet is nan"),
    ("methods/simclr/learning_rate/resnet", 0.0, r"simclr\.learning_rate\.resnet is 0\.0"),
    ("methods/simclr/weight_decay/vit", -1.0, r"simclr\.weight_decay\.vit is -1\.0"),
    ("methods/simclr/options/temperature", NAN, "temperature is nan"),
    ("methods/simclr/images_seen", 10, "images_seen is 10, less than one batch of 64"),
    ("methods/rotation/options/rotations", 2, "rotations.*2"),
    ("methods/mae/options/mask_ratio", 1.0, r"mask_ratio is 1\.0"),
    ("views/strong/hue", 0.7, r"hue is 0\.7"),
    ("views/strong/crop_scale", [0.3], "crop_scale"),
    ("views/strong/crop_scale", [1.0, 0.3], "crop_scale"),
    ("data/splits/train", 0, r"data\.splits\.train is 0"),
    ("data/splits/train", 0.5, r"data\.splits is \{.*\}: expected numbers of images, or fractions"),
    (
        "data/splits",
        {"train": 0.7, "validation": 0.15, "test": 0.16},
        r"data\.splits is .*: expected fractions of at most 1 in all",
    ),
    ("sweep/learning_rates", 2, r"sweep\.learning_rates is 2"),
    ("sweep/factor", 1.0, r"sweep\.factor is 1\.0"),
    ("experiments/leaderboard/seeds", [], r"experiments\.leaderboard\.seeds"),
    ("experiments/leaderboard/seeds", [0, 0], r"leaderboard.*seeds"),
    ("experiments/leaderboard/schemes", ["bn", "bn"], r"leaderboard.*schemes"),
    ("experiments/leaderboard/learning_rates", "best", r"learning_rates is 'best'.*'tuned'"),
    ("methods/simclr/schedule", {"end": 1.0}, r"methods\.simclr\.schedule\.end is 1\.0"),
    ("methods/simclr/schedule", {"drop_at": [0.5, 1.0], "drop_by": 0.1}, r"drop_at\.1 is 1\.0"),
    ("methods/simclr/schedule", {"drop_at": [0.5], "drop_by": 1.5}, r"drop_by is 1\.5"),
    (
        "methods/simclr/schedule",
        {"dropat": [0.5]},
        "did you mean 'methods.simclr.schedule.drop_at'",
    ),
    ("methods/simclr/schedule", {"constant": ["head"]}, r"schedule\.constant\.0 is 'head'"),
    ("methods/simclr/vector_rate", 0.0, r"methods\.simclr\.vector_rate is 0\.0"),
    ("methods/simclr/warmup_fraction", 1.0, r"methods\.simclr\.warmup_fraction is 1\.0"),
    ("methods/simclr/weight_decay_on", "biases", r"simclr\.weight_decay_on is 'biases'"),
    # what does not fit together
    ("methods/simclr/schedule", {"drop_at": [0.5]}, "expected drop_at and drop_by together"),
    ("methods/simclr/schedule", {"drop_by": 0.5}, "expected drop_at and drop_by together"),
    (
        "methods/simclr/schedule",
        {"drop_at": [0.6, 0.5], "drop_by": 0.1},
        r"drop_at is \[0\.6, 0\.5\], expected ascending shares",
    ),
    (
        "methods/simclr/schedule",
        {"drop_at": [0.5], "drop_by": 0.1, "end": 0.1},
        "expected an end or drops, not both",
    ),
    (
        "methods/simclr/schedule",
        {"constant": ["predictor"]},
        r"section in methods\.simclr\.schedule\.constant 'predictor'",
    ),
    ("methods/simclr/optimizer", {"resnett": "sgd"}, "'resnett'; did you mean 'resnet'"),
    ("methods/simclr/optimizer", {"resnet": "sdg"}, "'sdg'; did you mean 'sgd'"),
    ("methods/simclr/views", ["strong"], "simclr takes 2 views, not 1"),
    ("methods/simclr/views", ["strong"] * 3, "simclr takes 2 views, not 3"),
    ("methods/dino/views", ["strong"], "dino takes 2 or more views, not 1"),
    ("methods/dino/views", ["strong", "strong", "strng"], "'strng'; did you mean 'strong'"),
    ("views/strong/size", 14, r"simclr\.views: strong has size 14, expected the images' own size$"),
    ("views/strong/size", -1, "views: strong: size is -1"),
    ("views/strong/size", 14.0, r"views: strong: size is 14\.0"),
    (
        "methods/simclr/learning_rate",
        {"resnet": 0.1},
        r"simclr[-\w.]*\.learning_rate has no 'vit'",
    ),
    ("methods/untrained/images_seen", 64, "untrained"),
    ("optimizers", {"sgd": {"momentum": 0.9, "nesterov": False}}, "backbone vit 'adamw'"),
    ("sweep/seeds", [0], r"sweep: seeds \[0\] are reported"),
    ("experiments/head/sweep_seeds", [], r"experiments\.head\.sweep_seeds"),
    ("experiments/head/sweep_seeds", [9, 9], r"experiments\.head.*sweep_seeds.*9 is listed twice"),
    ("experiments/head/sweep_seeds", 100, r"experiments\.head\.sweep_seeds is 100"),
    # Another experiment reports it.
    ("experiments/head/sweep_seeds", [0], r"experiments: head\.sweep_seeds \[0\] are reported"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG, ids=[f"{p}={v}" for p, v, _ in WRONG])
def test_wrong_value_is_refused_in_one_line(path: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        parse(tiny.changed(tiny.real(), path, value), "params.yaml")
    assert "\n" not in str(refused.value)


def test_local_views_come_after_the_global_ones() -> None:
    tree = tiny.multi_crop(tiny.real(), "dino", 14)
    parse(tree, "params.yaml")
    views = tree["methods"]["dino"]["views"]
    tree["methods"]["dino"]["views"] = views[::-1]
    said = r"dino\.views: local has size 14, .*; local views come after the first 2$"
    with pytest.raises(UserError, match=said):
        parse(tree, "params.yaml")


def test_params_of_version_1_are_refused_in_one_line() -> None:
    tree = tiny.real()
    tree["families"] = {"resnet": {"channels": [16, 32, 64, 128]}}
    said = r"^params\.yaml has the keys of version 1 \(families\): [^\n]*docs/migration\.md[^\n]*$"
    with pytest.raises(UserError, match=said):
        parse(tree, "params.yaml")
    del tree["backbones"]
    with pytest.raises(UserError, match=said):
        parse(tree, "params.yaml")


def keys(tree: dict[str, Any], above: str = "") -> list[str]:
    """The paths of every key that is not a name, in a tree of params.

    Not of what a recipe takes from another one, and not of further grids: their place is to be added.
    """
    found = []
    for key, value in tree.items():
        path = f"{above}/{key}" if above else key
        if (isinstance(value, dict) and "extends" in value) or key == "also":
            continue
        if above not in ("backbones", "schemes", "views", "optimizers", "methods", "experiments"):
            found.append(path)
        if isinstance(value, dict) and path != "schemes":
            found += keys(value, path)
    return found


def without(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """A copy of a tree without one key."""
    found = at = copy.deepcopy(tree)
    *folders, last = path.split("/")
    for part in folders:
        at = at[part]
    del at[last]
    return found


OF_A_RECIPE = ("view_batching", "weight_decay_end", "clip_grad_norm", "batch_size")
"""What a recipe may leave out: then it is what the method or the track says, or it is not done."""


def has_default(path: str) -> bool:
    """Whether a component, or the view, declares what is taken where the key is missing."""
    kind, name, *rest = path.split("/")
    if kind == "methods" and rest[0] in OF_A_RECIPE:
        return True
    if kind == "experiments" and rest == ["sweep_seeds"]:  # those of `sweep`
        return True
    if kind == "experiments" and rest == ["sweep_seeds"]:  # those of `sweep`
        return True
    tree: dict[str, Any] = tiny.real()
    if kind == "backbones" and rest[:1] == ["arguments"] and rest[1:]:
        facts = registry.facts("backbone", tree[kind][name]["model"])
        return rest[1] in facts.get("defaults", {})
    return kind == "views" and rest[0] in view_defaults()


@pytest.mark.parametrize("path", keys(tiny.real()))
def test_a_key_is_needed_unless_its_default_is_declared(path: str) -> None:
    """Nothing that decides a result has a default that one does not see."""
    tree = without(tiny.real(), path)
    if "/" in path and has_default(path):
        parse(tree, "params.yaml")
        return
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        parse(tree, "params.yaml")


def test_what_is_left_out_is_the_declared_default() -> None:
    tree = tiny.real()
    del tree["views"]["strong"]["blur"], tree["backbones"]["resnet"]["arguments"]["branch_gain"]
    found = parse(tree, "params.yaml")
    assert found.views["strong"]["blur"] == 0
    assert found.backbones["resnet"].arguments["branch_gain"] == 1
    assert found.backbones["vit"].arguments["placement"] == "pre"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n",
        "a: [\n",
        "a: \x07\n",
        "? [a]\n: 1\n",
        "a: &x [*x]\n",
        "a: !!python/object:os.system x\n",
        "--- {}\n--- {}\n",
        "a:\tb\n\tc: 1\n",
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]+$"):
        read(file)


def test_bytes_that_are_no_text_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(b"title: \xff\n")
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]+$"):
        read(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("track: [", "line "),
        ("track: mine\nodd: 1\n", "unknown key 'odd'"),
        ("families: {}\n", "the keys of version 1"),
        (None, "unknown norm 'bnn'"),
    ],
)
def test_an_error_in_a_tracks_params_names_its_file(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "tracks" / "mine" / "params.yaml"
    file.parent.mkdir(parents=True)
    tiny.write_params(file.parent, tiny.changed(tiny.raw(), "schemes/bn", {"norm": "bnn"}))
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"^tracks/mine/params\.yaml[: ].*{said}"):
        read(file)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    text = (tiny.PROJECT / "params.yaml").read_text(encoding="utf-8")
    file.write_text(text + "title: again\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^params\.yaml: [^\n]*duplicate key \"title\"[^\n]*$"):
        read(file)


def test_one_norm_stands_for_every_section() -> None:
    specs = tiny.params(tiny.changed(tiny.raw(), "schemes/gn/groups", 8)).schemes["gn"]
    assert set(specs) == {"backbone", "heads"}
    assert all(spec == {"norm": "gn", "groups": 8} for spec in specs.values())


@pytest.mark.parametrize("file", sorted(tiny.PROJECT.glob("tracks/*/params.yaml")), ids=str)
def test_the_params_of_every_track_are_sound(file: Path) -> None:
    assert read(file).track == file.parent.name
