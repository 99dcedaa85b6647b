"""`--set KEY=VALUE`: the params are those of the file with that value written into it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from benchmark.config import overrides, yaml_file
from benchmark.config.params import parse, read
from benchmark.config.schema import MethodParams, Params
from benchmark.core.errors import UserError
from tests.helpers import tiny

FILE = tiny.PROJECT / "params.yaml"

GRID = {"methods": ["simclr"], "backbones": ["resnet"], "schemes": ["bn"], "seeds": [7]}
NEW = {**GRID, "learning_rates": "default"}


def both(path: str, value: Any, *given: str) -> tuple[Params, Params]:
    """The params with the values set, and those of the file with one value written into it."""
    return read(FILE, given), parse(tiny.changed(tiny.real(), path, value), "params.yaml")


@pytest.mark.parametrize(
    ("given", "path", "value"),
    [
        ("training.batch_size=128", "training/batch_size", 128),
        ("training.clip_grad_norm=1e-3", "training/clip_grad_norm", 0.001),
        ("training.clip_grad_norm = 1", "training/clip_grad_norm", 1),
        ("backbones.vit.arguments.qk_norm=true", "backbones/vit/arguments/qk_norm", True),
        ("evaluation.knn_k=[5,20]", "evaluation/knn_k", [5, 20]),
        ("title=a = b", "title", "a = b"),
        # optional keys that the file lacks, also below one that it lacks
        ("methods.simclr.batch_size=128", "methods/simclr/batch_size", 128),
        ("methods.simclr.weight_decay_end.vit=0.4", "methods/simclr/weight_decay_end", {"vit": 0.4}),
        # whole mappings, which replace those of the file, and new entries
        ("data.splits={train: 400, validation: 100, test: 200}", "data/splits",
         {"train": 400, "validation": 100, "test": 200}),
        ("experiments.mine={methods: [simclr], backbones: [resnet], schemes: [bn], seeds: [7], "
         "learning_rates: default}", "experiments/mine", NEW),
        # names with dots
        ("methods.simclr-lr-0.1.learning_rate.resnet=0.2",
         "methods/simclr-lr-0.1/learning_rate/resnet", 0.2),
        ('methods."simclr-lr-0.1".learning_rate.resnet=0.2',
         "methods/simclr-lr-0.1/learning_rate/resnet", 0.2),
        ("methods.simclr-lr-0.1.batch_size=128", "methods/simclr-lr-0.1/batch_size", 128),
        ('methods."simclr-lr-0.5"={extends: simclr, learning_rate: {resnet: 0.5}}',
         "methods/simclr-lr-0.5", {"extends": "simclr", "learning_rate": {"resnet": 0.5}}),
        # below a key that the recipe has from the one that it extends
        ("methods.simclr-lr-0.1.options.temperature=0.5",
         "methods/simclr-lr-0.1/options", {"temperature": 0.5}),
        ("methods.simclr-output-norm.options.temperature=0.5",
         "methods/simclr-output-norm/options/temperature", 0.5),
    ],
)  # fmt: skip
def test_a_value_is_that_of_the_edited_file(given: str, path: str, value: Any) -> None:
    found, edited = both(path, value, given)
    assert (len(found.overrides), edited.overrides) == (1, {})
    assert found.under({}) == edited
    assert found.under({}) != read(FILE)


def temperature(params: Params, name: str) -> float:
    recipe = params.methods[name]
    assert isinstance(recipe, MethodParams)
    return float(recipe.options["temperature"])


def test_an_override_reaches_the_recipes_that_extend_the_one_it_names() -> None:
    names = ("simclr", "simclr-output-norm", "simclr-lr-0.01", "simclr-double")
    found = read(FILE, ["methods.simclr.options.temperature=0.5"])
    assert [temperature(found, name) for name in names] == [0.5] * 4
    found = read(FILE, ["methods.simclr-double.options.temperature=0.5"])
    assert [temperature(found, name) for name in names] == [0.2, 0.2, 0.2, 0.5]
    found = read(FILE, ["methods.mine={extends: simclr}", "methods.simclr.options.temperature=0.5"])
    assert temperature(found, "mine") == 0.5


def test_only_the_named_entry_changes_where_the_file_has_an_anchor() -> None:
    """`gn: &gn` is also the backbone's norm in the scheme `gn-bn-head`; `weak` merges `strong`."""
    before = read(FILE)
    found = read(FILE, ["schemes.gn.groups=8", "views.strong.blur=0.5"])
    assert found.schemes["gn"]["backbone"]["groups"] == 8
    assert found.schemes["gn-bn-head"] == before.schemes["gn-bn-head"]
    assert found.views["strong"]["blur"] == 0.5
    assert found.views["weak"] == before.views["weak"]


def test_the_order_of_the_arguments_does_not_matter() -> None:
    given = ["experiments.mine.seeds=[8]", f"experiments.mine={NEW}", "training.batch_size=128"]
    found, other = read(FILE, given), read(FILE, given[::-1])
    assert found == other
    assert set(found.overrides) == {
        "experiments.mine",
        "experiments.mine.seeds",
        "training.batch_size",
    }
    assert found.experiments["mine"].seeds == (8,)


def test_the_longest_name_with_dots_is_meant_and_quotes_choose_another(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    tree = tiny.raw()
    tree["views"]["strong.blur"] = dict(tree["views"]["strong"])
    tiny.write_params(tmp_path, tree)
    found = read(file, ["views.strong.blur.flip=0.1"])
    assert (found.views["strong.blur"]["flip"], found.views["strong"]["flip"]) == (0.1, 0.5)
    assert found.overrides == {'views."strong.blur".flip': 0.1}
    with pytest.raises(UserError, match=r"views\.strong\.blur is 0\.0, not a mapping"):
        read(file, ['views."strong".blur.flip=0.1'])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("training.batch_size", r"expected KEY=VALUE"),
        ("training.batch_size=", r"expected KEY=VALUE"),
        ("=128", r"expected KEY=VALUE"),
        ("training..batch_size=128", r"expected KEY=VALUE"),
        ('training."batch_size=128', r"expected KEY=VALUE"),
        ("trainin.batch_size=128", r"unknown key 'trainin'; did you mean 'training'\?"),
        ("backbones.resnett.arguments.stem_stride=1", r"did you mean 'backbones\.resnet'\?"),
        ("methods.simclr.option.temperature=1", r"did you mean 'methods\.simclr\.options'\?"),
        ("methods.new-0.5={extends: simclr}", r'a new name with dots needs quotes: "a\.b"$'),
        ("training.batch_size.x=1", r"training\.batch_size is 64, not a mapping of keys$"),
        ("training.clip_grad_norm.x=1", r"training\.clip_grad_norm is None, not a mapping"),
        ("experiments.leaderboard.seeds.0=1", r"leaderboard\.seeds is \[0, 1\], not a mapping"),
        ("training.batch_size=[1,", r"line 1, column 4: expected the node content"),
        ("training.batch_size={a: 1, a: 2}", r"duplicate key"),
        ("title=\udcff", r"can't decode byte"),
        ("title=&a [*a]", r"."),
        ("track=cifar10", r"`--track` chooses the track$"),
    ],
)
def test_what_cannot_be_set_is_named_in_one_line(given: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        read(FILE, [given])
    assert f"--set {given}: " in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("again", ["training.batch_size=32", 'training."batch_size"=64'])
def test_a_key_that_is_set_twice_is_refused(again: str) -> None:
    with pytest.raises(UserError, match=r"^--set .*: training\.batch_size is set twice$"):
        read(FILE, ["training.batch_size=64", again])


@pytest.mark.parametrize(
    ("given", "path", "value"),
    [
        ("training.batch_size='64'", "training/batch_size", "64"),
        ("training.batch_size=64.0", "training/batch_size", 64.0),
        ("training.batch_sizes=64", "training/batch_sizes", 64),
        ("evaluation.knn_temperature=.nan", "evaluation/knn_temperature", float("nan")),
        ("methods.simclr.options.temprature=1", "methods/simclr/options/temprature", 1),
        ("views.strong.hue=0.7", "views/strong/hue", 0.7),
        ("schemes.bn={norm: bnn}", "schemes/bn", {"norm": "bnn"}),
        ("sweep.seeds=[0]", "sweep/seeds", [0]),
        ("methods.simclr={extends: mocoo}", "methods/simclr", {"extends": "mocoo"}),
        ("overrides=1", "overrides", 1),
        ("methods.mine={options: {}}", "methods/mine", {"options": {}}),
    ],
)
def test_a_value_that_is_not_allowed_has_the_message_of_the_file(
    given: str, path: str, value: Any
) -> None:
    with pytest.raises(UserError) as edited:
        parse(tiny.changed(tiny.real(), path, value), "params.yaml")
    with pytest.raises(UserError) as found:
        read(FILE, [given])
    said = str(edited.value).removeprefix("params.yaml")
    assert str(found.value) == f"params.yaml with --set {given}{said}"


def test_dates_are_no_plain_values() -> None:
    with pytest.raises(UserError, match=r"with --set title=2020-01-01: not plain keys and values"):
        read(FILE, ["title=2020-01-01"])


def test_a_file_that_is_no_mapping_is_named_as_without(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("- a\n")
    with pytest.raises(UserError, match=r"^params\.yaml: .*not a mapping of keys"):
        read(tmp_path / "params.yaml", ["training.batch_size=64"])


@pytest.mark.parametrize(
    "given",
    [
        ["data.options.path=/home/me", "data.options.size=16"],
        ["data.options={path: /home/me, size: 16, channels: 1}"],
    ],
)
def test_a_value_that_no_published_file_holds_is_not_stated(
    tmp_path: Path, given: list[str]
) -> None:
    tiny.write_params(tmp_path, tiny.raw())
    found = read(tmp_path / "params.yaml", given)
    assert found.data.options["path"] == "/home/me"
    assert "/home/me" not in str(found.overrides)
    assert "path" in str(found.overrides)
    assert "16" in str(found.overrides)


TEXT = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
)


@drawn(value=VALUES)
def test_the_arguments_shown_give_the_same_values_again(value: Any) -> None:
    shown = overrides.flags({"training.batch_size": 64, 'methods."a.b".options': value})
    flag, given, *_ = shlex.split(shown)
    assert flag == "--set"
    key, _, text = given.partition("=")
    assert key == 'methods."a.b".options'
    assert yaml_file.loads(text.encode(), "shown") == value
