"""Reads and checks a track's `params.yaml`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from benchmark import registry
from benchmark.errors import UserError, unknown
from benchmark.options import check_options

VIEWS_FILE = Path(__file__).parent / "data" / "views.py"


class Model(BaseModel):
    """Frozen; unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Splits(Model):
    """Images in each split: counts, or shares of a source without an official split."""

    train: int | float = Field(gt=0)
    validation: int | float = Field(gt=0)
    test: int | float = Field(gt=0)


class Data(Model):
    """Where the images come from."""

    source: str
    options: dict[str, Any]
    splits: Splits
    seed: int


class Training(Model):
    """What every trained cell of the track has in common."""

    batch: int = Field(ge=2)
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    clip: float | None = Field(gt=0)
    """Largest gradient norm, or null for none."""
    precision: Literal["float32", "bfloat16"]
    weight_decay_on: Literal["weights", "all"]
    """`weights`: parameters of two or more dimensions, whatever norm stands around them."""
    view_batching: Literal["separate", "together"]
    teacher: Literal["batch", "eman"]


class Evaluation(Model):
    """How embeddings are judged."""

    neighbours: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    temperature: float = Field(gt=0)
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=3)
    """Inverse L2 strengths (scikit-learn's C) of the linear probe."""
    calibration_batch: int = Field(ge=2)
    """Batch in which BN statistics are re-estimated."""


class MethodParams(Model):
    """One method's recipe on this track."""

    images: int = Field(ge=1)
    """Training images seen, repetitions counted and views not."""
    views: tuple[str, ...]
    """The name of a view for each view the method takes."""
    rate: dict[str, float]
    weight_decay: dict[str, float]
    options: dict[str, Any]


class Control(Model):
    """A control that is not trained has no recipe."""

    options: dict[str, Any]


def _kind(given: Any) -> str:
    """Which of the two an entry under `methods` is meant to be."""
    return "control" if isinstance(given, dict) and set(given) <= {"options"} else "recipe"


class Experiment(Model):
    """A grid of cells."""

    methods: tuple[str, ...] = Field(min_length=1)
    families: tuple[str, ...] = Field(min_length=1)
    schemes: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    rates: Literal["default", "tuned"]


class Sweep(Model):
    """How the learning rates of an experiment are tuned, on the validation split."""

    experiment: str
    seeds: tuple[int, ...] = Field(min_length=1)
    factor: float = Field(gt=1)
    rates: int = Field(ge=3)
    """Trials of each row before any extension, the recipe's rate in their middle."""
    extensions: int = Field(ge=0)
    """How many further rates are tried while the best one lies at an edge."""


class Params(Model):
    """A whole `params.yaml`."""

    track: str
    title: str
    data: Data
    families: dict[str, dict[str, Any]]
    schemes: dict[str, dict[str, Any]]
    views: dict[str, dict[str, Any]]
    training: Training
    optimizers: dict[str, dict[str, Any]]
    """The optimizer of each family."""
    evaluation: Evaluation
    methods: dict[
        str,
        Annotated[
            Annotated[MethodParams, Tag("recipe")] | Annotated[Control, Tag("control")],
            Discriminator(_kind),
        ],
    ]
    experiments: dict[str, Experiment]
    sweep: Sweep


def track_file(root: Path, track: str) -> Path:
    """A track's params.yaml: the one at the top for `mini`, `tracks/NAME/params.yaml` for others."""
    path = root / "params.yaml" if track == "mini" else root / "tracks" / track / "params.yaml"
    if not path.is_file():
        known = {p.parent.name for p in (root / "tracks").glob("*/params.yaml")}
        if not (root / "params.yaml").is_file():
            raise UserError(f"no params.yaml in {root}: run this at the top of the project")
        raise unknown("track", track, known | {"mini"})
    return path


def read(path: Path) -> Params:
    """The checked params of one track; anything wrong is a UserError of one line."""
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path.name}: {place}{' '.join(str(error.problem).split())}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name}: {' '.join(str(error).split())}") from None
    return parse(raw, path.name)


def parse(raw: Any, where: str) -> Params:
    """Checks loaded YAML: types and keys, then the names and options of components."""
    try:
        # By way of JSON, so that strict checking takes YAML's lists for tuples.
        params = Params.model_validate_json(json.dumps(raw))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise UserError(f"{where}: not plain keys and values ({error})") from None
        raise UserError(f"{where}: {_one_line(error)}") from None
    _check_names(params)
    return params


_NOT_KEYS = ("recipe", "control", "int", "float")
"""What pydantic puts into the path of an error for the alternatives of a union."""


def _one_line(error: ValidationError) -> str:
    # An unknown key comes first: it is often the misspelt form of the one that is missing.
    found = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    first = found[0]
    path = [str(p) for p in first["loc"] if p not in _NOT_KEYS]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        return str(unknown("key", key, _fields(first["loc"])))
    if first["type"] == "missing":
        if path[-1].isdigit():
            return f"{'.'.join(path[:-1])} has too few entries"
        return f"key {key!r} is missing"
    if first["type"] == "too_short":
        least = first.get("ctx", {}).get("min_length")
        return f"{key} is {first['input']!r}, expected at least {least} entries"
    if not key:
        return "is empty or not a mapping of keys"
    return f"{key} is {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _fields(loc: tuple[int | str, ...]) -> list[str]:
    """The keys allowed beside the one at `loc`, with the path before it, for the nearest name."""
    prefix = ".".join(str(p) for p in loc[:-1] if p not in _NOT_KEYS)
    model: Any = Params
    for part in loc[:-1]:
        if part in ("recipe", "control"):
            model = MethodParams if part == "recipe" else Control
            continue
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = fields[str(part)].annotation
            model = getattr(model, "__args__", (model,))[-1]
    return [f"{prefix}.{name}" if prefix else name for name in getattr(model, "model_fields", {})]


def view_options() -> dict[str, Any]:
    """The fields of a view and their descriptions, read without importing torch."""
    return dict(registry.constant(VIEWS_FILE, "OPTIONS"))


def _check_names(params: Params) -> None:
    facts = registry.facts
    check_options(
        f"source {params.data.source}",
        params.data.options,
        facts("source", params.data.source)["options"],
    )
    for family, options in params.families.items():
        check_options(f"family {family}", options, facts("family", family)["options"])
        if facts("family", family)["normalized"] and family not in params.optimizers:
            raise UserError(f"optimizers: family {family!r} has none")
    for family, optimizer in params.optimizers.items():
        name = optimizer.get("name")
        if family not in params.families:
            raise unknown("family in optimizers", family, params.families)
        if name is None:
            raise UserError(f"optimizers: {family} has no name")
        given = {key: value for key, value in optimizer.items() if key != "name"}
        described = facts("optimizer", str(name))["options"]
        check_options(f"optimizers: {family}: {name}", given, described)
    for name, view in params.views.items():
        check_options(f"views: {name}", view, view_options())
    for name, scheme in params.schemes.items():
        _check_scheme(name, scheme)
    for name, method in params.methods.items():
        _check_method(name, method, params)
    for name, experiment in params.experiments.items():
        _check_experiment(name, experiment, params)
    if len(set(params.sweep.seeds)) < len(params.sweep.seeds):
        raise UserError(f"sweep: seeds {list(params.sweep.seeds)} name one twice")
    if params.sweep.experiment not in params.experiments:
        raise unknown("experiment of the sweep", params.sweep.experiment, params.experiments)
    reported = {seed for e in params.experiments.values() for seed in e.seeds}
    if shared := reported & set(params.sweep.seeds):
        raise UserError(f"sweep: seeds {sorted(shared)} are reported by an experiment")


SECTIONS = ("backbone", "projector", "predictor", "decoder")


def section_specs(scheme: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A scheme's norm in every section; `{norm: bn}` stands for BN everywhere."""
    if "norm" in scheme:
        return dict.fromkeys(SECTIONS, scheme)
    return scheme


def _check_scheme(name: str, scheme: dict[str, Any]) -> None:
    if not scheme:
        raise UserError(f"schemes: {name} names no norm, expected {{norm: …}} or sections")
    for section, spec in section_specs(scheme).items():
        if section not in SECTIONS:
            raise unknown(f"section of scheme {name}", section, SECTIONS)
        if not isinstance(spec, dict) or not isinstance(spec.get("norm"), str):
            raise UserError(f"schemes: {name}.{section} is {spec!r}, expected {{norm: …}}")
        given = {key: value for key, value in spec.items() if key != "norm"}
        options = registry.facts("norm", spec["norm"])["options"]
        check_options(f"scheme {name}: {spec['norm']}", given, options)


def _check_method(name: str, method: MethodParams | Control, params: Params) -> None:
    facts = registry.facts("method", name)
    check_options(f"method {name}", method.options, facts["options"])
    if (facts["views"] > 0) != isinstance(method, MethodParams):
        wanted = "images, views, rate and weight_decay" if facts["views"] else "options alone"
        raise UserError(f"methods: {name} needs {wanted}")
    if not isinstance(method, MethodParams):
        return
    if len(method.views) != facts["views"]:
        raise UserError(f"methods: {name} takes {facts['views']} views, not {len(method.views)}")
    for view in method.views:
        if view not in params.views:
            raise unknown(f"view of method {name}", view, params.views)
    for field in ("rate", "weight_decay"):
        for family, value in getattr(method, field).items():
            if family not in params.families:
                raise unknown(f"family in methods.{name}.{field}", family, params.families)
            if value < 0 or (field == "rate" and value == 0):
                least = "> 0" if field == "rate" else ">= 0"
                raise UserError(f"methods: {name}.{field}.{family} is {value}, expected {least}")
    if method.images < params.training.batch:
        raise UserError(
            f"methods: {name}.images is {method.images}, less than one batch "
            f"of {params.training.batch}"
        )


def _check_experiment(name: str, experiment: Experiment, params: Params) -> None:
    for kind in ("methods", "families", "schemes", "seeds"):
        listed = getattr(experiment, kind)
        if twice := [item for item in dict.fromkeys(listed) if listed.count(item) > 1]:
            raise UserError(f"experiments: {name}.{kind} names {twice[0]!r} twice")
    for kind in ("methods", "families", "schemes"):
        known = getattr(params, kind)
        for item in getattr(experiment, kind):
            if item not in known:
                raise unknown(f"{kind} of experiment {name}:", item, known)
    for method in experiment.methods:
        recipe = params.methods[method]
        for family in experiment.families:
            if isinstance(recipe, MethodParams) and not (
                family in recipe.rate and family in recipe.weight_decay
            ):
                raise UserError(f"methods: {method} has no rate and weight_decay for {family!r}")
    splits = params.data.splits
    calibration = params.evaluation.calibration_batch
    if isinstance(splits.train, int) and calibration > splits.train:
        raise UserError(
            f"evaluation: calibration_batch {calibration} is larger than the training split "
            f"of {splits.train} images"
        )
    if isinstance(splits.train, int) and params.training.batch > splits.train:
        raise UserError(
            f"training: batch {params.training.batch} is larger than the training split "
            f"of {splits.train} images"
        )
