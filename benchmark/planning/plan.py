"""From params to cells: each training run of an experiment with all its settings."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.components import registry
from benchmark.components.facts import PIXELS, SECTIONS
from benchmark.components.options import essential
from benchmark.config.overrides import flags
from benchmark.config.schema import MethodParams, Params
from benchmark.config.validate import VIEWS_FILE, layout_options, view_defaults
from benchmark.core import canonical_json
from benchmark.core.errors import ParamsError, UserError, check_known
from benchmark.planning import rate_table
from benchmark.planning.cell import Cell, Row
from benchmark.planning.configuration import Configuration

PACKAGE = Path(__file__).parents[1]

PARTS = {
    "views": VIEWS_FILE,
    "training": PACKAGE / "training" / "loop.py",
    "evaluation": PACKAGE / "evaluation" / "evaluate.py",
    "diagnostics": PACKAGE / "diagnostics" / "diagnose.py",
    "weights": PACKAGE / "backbones" / "weights.py",
}
"""Parts of the benchmark with a version that are not components."""

OPTIONAL = {"finetune": PACKAGE / "evaluation" / "finetune.py"}
"""Parts that only some tracks use. DVC watches them in the stages of these alone."""

PIXELS_SIDE = 32
"""Where networks see an `image_size`, the control of raw pixels sees images of at most this side."""


def rows(params: Params, experiment: str) -> list[Row]:
    """The rows of an experiment in the order of its lists.

    A control without a network of its own (raw pixels) has one row, backbone `pixels`, scheme `none`.
    """
    return list(seeds(params, experiment))


def seeds(params: Params, experiment: str) -> dict[Row, tuple[int, ...]]:
    """The rows of an experiment, see `rows`, and the seeds of each."""
    check_known("experiment", [experiment], params.experiments)
    asked = params.experiments[experiment]
    found: list[tuple[Row, tuple[int, ...]]] = []
    for grid in asked.grids:
        own = asked.seeds_of(grid)
        for method in grid.methods:
            if not facts(params, method)["sections"]:
                found.append((Row(method, PIXELS, "none"), own[:1]))
                continue
            found += [
                (Row(method, backbone, scheme), own)
                for backbone in grid.backbones
                for scheme in grid.schemes
            ]
    for row, count in Counter(row for row, _ in found).items():
        if count > 1:
            raise ParamsError(f"experiments: {experiment} has the row {row} twice")
    return dict(found)


def component(params: Params, recipe: str) -> str:
    """The method of an entry under `methods`."""
    return params.methods[recipe].method or recipe


def facts(params: Params, recipe: str) -> Mapping[str, Any]:
    """The facts of the method of an entry under `methods`."""
    return registry.facts("method", component(params, recipe))


def model(params: Params, backbone: str) -> str:
    """The component of a backbone."""
    return PIXELS if backbone == PIXELS else params.backbones[backbone].model


def is_trained(params: Params, recipe: str) -> bool:
    """Whether the method is trained, and so has a learning rate."""
    return bool(facts(params, recipe)["views"])


def section_norms(params: Params, row: Row) -> dict[str, dict[str, Any]]:
    """The norm of each section that the row's method has.

    Raises ParamsError if the scheme lacks one, or names something that the row does not have.
    """
    scheme, declared = params.schemes[row.scheme], facts(params, row.method)
    where = f"scheme {row.scheme}"
    for key in scheme:
        if key in SECTIONS and key not in declared["sections"]:
            raise ParamsError(
                f"{where} has a norm for the {key}, which {row.method} lacks (`heads` stands for "
                "those that a method has)"
            )
        if key == "teacher" and not declared["teacher"]:
            raise ParamsError(f"{where} has a teacher's policy, and {row.method} has no teacher")
        if key == "layout":
            known = layout_options(model(params, row.backbone))
            if unknown := [option for option in scheme[key] if option not in known]:
                raise ParamsError(f"{where} sets {unknown[0]}, which {row.backbone} does not have")
    found = {}
    for section in declared["sections"]:
        spec = scheme.get(section) or (scheme.get("heads") if section != "backbone" else None)
        if spec is None:
            raise ParamsError(f"{where} has no norm for the {section} of {row.method}")
        found[section] = spec
    return found


def default_setting(params: Params, row: Row) -> tuple[float, float]:
    """The recipe's learning rate and weight decay for a row."""
    recipe = params.methods[row.method]
    if not isinstance(recipe, MethodParams):
        raise ValueError(f"{row.method} is not trained")
    return recipe.learning_rate[row.backbone], recipe.weight_decay[row.backbone]


def images_seen(recipe: MethodParams, backbone: str) -> int:
    """The number of training images that a backbone sees."""
    found = recipe.images_seen
    return found[backbone] if isinstance(found, dict) else found


def tuned_row(params: Params, row: Row) -> Row:
    """The row whose sweep gives a row its rates: itself, unless its recipe names another recipe."""
    recipe = params.methods[row.method]
    other = recipe.learning_rates_from if isinstance(recipe, MethodParams) else None
    return replace(row, method=other) if other else row


def cells(
    params: Params,
    experiment: str,
    rates: Mapping[Row, tuple[float, float]] | None,
    methods: Collection[str] | None = None,
) -> list[Cell]:
    """The cells of an experiment, or of some of its methods.

    `rates` are the tuned settings, if the experiment uses them; those of other methods may be missing.
    """
    return [
        cell
        for row, own in seeds(params, experiment).items()
        if methods is None or row.method in methods
        for cell in cells_of(params, experiment, row, own, rates)
    ]


def cells_of(
    params: Params,
    experiment: str,
    row: Row,
    own: Sequence[int],
    rates: Mapping[Row, tuple[float, float]] | None,
) -> list[Cell]:
    """The cells of one row, one for each seed; UserError if its tuned rate is needed and missing."""
    setting = None
    if is_trained(params, row.method):
        setting = default_setting(params, row)
        if params.experiments[experiment].learning_rates == "tuned":
            tuned = tuned_row(params, row)
            if rates is None or tuned not in rates:
                table = rate_table.path(Path(), params.track, experiment, params.overrides)
                apart = ", and tables tuned without the same --set do not count"
                command = sweep_command(params.track, experiment, params.overrides)
                raise UserError(
                    f"{table.as_posix()} has no rate for {tuned}{apart if params.overrides else ''}: "
                    f"run `{command}`"
                )
            setting = rates[tuned]
    first = resolve(params, experiment, row, own[0], setting, "test", f"{row}-s{own[0]}")
    return [
        replace(
            first,
            seed=seed,
            label=f"{row}-s{seed}",
            config=first.config.model_copy(update={"seed": seed}),
        )
        for seed in own
    ]


def sweep_command(
    track: str,
    experiment: str,
    overrides: Mapping[str, Any] | None = None,
    method: str | None = None,
) -> str:
    """The command that tunes an experiment's rates, or those of a method, which DVC cannot do.

    Nor can DVC have overrides.
    """
    if experiment == "leaderboard" and not overrides and not method:
        return f"uv run dvc repro tracks/{track}/sweep/dvc.yaml"
    only = f" --method {method}" if method else ""
    return f"uv run benchmark sweep{_on(track)} --experiment {experiment}{only}{_set(overrides)}"


def train_command(
    track: str,
    experiment: str,
    components: Iterable[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """The command that trains an experiment's cells, which use `components`, under these overrides.

    DVC does not watch plug-ins. With `--force` it runs every stage, which trains only what changed.
    """
    if experiment == "leaderboard" and not overrides:
        force = " --force" if registry.plugged(components) else ""
        file = "" if track == "mini" else f" tracks/{track}/dvc.yaml"
        return f"uv run dvc repro{force}{file}"
    return f"uv run benchmark train{_on(track)} --experiment {experiment}{_set(overrides)}"


def _on(track: str) -> str:
    return "" if track == "mini" else f" --track {track}"


def _set(overrides: Mapping[str, Any] | None) -> str:
    return f" {flags(overrides)}" if overrides else ""


def resolve(
    params: Params,
    experiment: str,
    row: Row,
    seed: int,
    setting: tuple[float, float] | None,
    judge: str,
    label: str,
) -> Cell:
    """One cell; `setting` is its learning rate and weight decay, `judge` the split that scores it."""
    declared, recipe = facts(params, row.method), params.methods[row.method]
    method, built = component(params, row.method), model(params, row.backbone)
    used = registry.versions("method", method) | {"evaluation": part_version("evaluation")}
    if judge == "test":
        used["diagnostics"] = part_version("diagnostics")
    scheme = params.schemes.get(row.scheme, {})
    used |= registry.versions("backbone", built)
    norms: dict[str, Any] = {}
    if declared["sections"]:
        specs = section_norms(params, row)
        for section in declared["sections"]:
            spec = specs[section]
            norms[section] = _norm(spec)
            for used_norm in [spec, *spec.get("parts", ())]:
                used |= registry.versions("norm", used_norm["norm"])
    training = None
    if isinstance(recipe, MethodParams) and setting is not None:
        chosen = recipe.optimizer.get(row.backbone, params.backbones[row.backbone].optimizer)
        optimizer = params.optimizers[chosen]
        used |= registry.versions("optimizer", optimizer["name"])
        used["training"], used["views"] = part_version("training"), part_version("views")
        training = {
            **params.training.model_dump(
                exclude={"teacher", "clip_grad_norm", "micro_batches", "math", "compile"},
                exclude_none=True,
            ),
            **params.training.model_dump(include={"math", "compile"}, exclude_defaults=True),
            # What the recipe has of its own.
            **recipe.model_dump(
                include={"batch_size", "warmup_fraction", "weight_decay_on"}, exclude_none=True
            ),
            "view_batching": recipe.view_batching or declared.get("view_batching", "separate"),
            "images_seen": images_seen(recipe, row.backbone),
            "learning_rate": setting[0],
            "weight_decay": setting[1],
            "optimizer": _essential("optimizer", optimizer, "name"),
            "views": [_view(params, view) for view in recipe.views],
        }
        # A setting that is off has no key, so that a new setting changes no fingerprint.
        training |= recipe.model_dump(include={"schedule", "vector_rate"}, exclude_defaults=True)
        if clip := recipe.clip_grad_norm or params.training.clip_grad_norm:
            training["clip_grad_norm"] = clip
        if (parts := recipe.micro_batches or params.training.micro_batches) > 1:
            training["micro_batches"] = parts
        if row.backbone in recipe.weight_decay_end:
            training["weight_decay_end"] = recipe.weight_decay_end[row.backbone]
        if declared["teacher"]:
            training["teacher"] = {**params.training.teacher, **scheme.get("teacher", {})}
    given = params.backbones.get(row.backbone)
    arguments = given.arguments if given else {}
    if built == PIXELS and params.image_size is not None:
        arguments = {"side": min(PIXELS_SIDE, params.image_size)}
    arguments = arguments | scheme.get("layout", {})
    weights = given.weights if given else None
    _check_weights(row, weights, declared.get("weights"), arguments)
    if weights is not None:
        used["weights"] = part_version("weights")
    evaluation = {
        **params.evaluation.model_dump(
            mode="json",
            exclude_defaults=True,
            # A trial of a sweep is scored by its nearest neighbours alone.
            exclude={"finetune", "transfer", *(("probe", "few_labels") if judge != "test" else ())},
        ),
        "judge": judge,
    }
    if judge == "test" and params.evaluation.transfer:
        evaluation["transfer"] = params.evaluation.transfer
    if judge == "test" and row.backbone in params.evaluation.finetune:
        evaluation["finetune"], versions = _finetune(params, row.backbone)
        used |= versions
    resolved = {
        "method": {"name": method, **registry.essential("method", method, recipe.options)},
        "backbone": {
            "model": built,
            **({"weights_sha256": given.sha256} if given and weights is not None else {}),
            **registry.essential("backbone", built, arguments),
        },
        "norms": norms,
        "training": training,
        "evaluation": evaluation,
        "seed": seed,
    }
    if params.image_size is not None:
        resolved["image_size"] = params.image_size
    # Through JSON, so that a cell is the same before and after storing.
    config = Configuration.model_validate_json(canonical_json.compact(resolved))
    return Cell(
        track=params.track, experiment=experiment, method=row.method, backbone=row.backbone,
        scheme=row.scheme, seed=seed, label=label, config=config, components=used,
        weights=weights,
    )  # fmt: skip


def _check_weights(
    row: Row, weights: str | None, asked: str | None, arguments: Mapping[str, Any]
) -> None:
    """Raises ParamsError if a method or an option does not fit a backbone with or without `weights`."""
    where = f"backbones.{row.backbone}"
    if asked == "required" and weights is None:
        raise ParamsError(f"{row}: {where} has no weights, which are what {row.method} evaluates")
    if weights is None:
        return
    if asked == "refused":
        raise ParamsError(f"{row}: {where} has weights, so that its control is `pretrained`")
    if arguments.get("branch_gain") == 0:
        raise ParamsError(f"{row}: {where} has weights, so that branch_gain 0 would change nothing")


def _view(params: Params, name: str) -> dict[str, Any]:
    """The settings of a view that are not at their defaults; its size is what the network sees."""
    found = essential(params.views[name], view_defaults())
    if params.image_size is not None:
        found.setdefault("size", params.image_size)
    return found


def _finetune(params: Params, backbone: str) -> tuple[dict[str, Any], dict[str, int | str]]:
    """How a backbone is fine-tuned, and the versions of what does it, apart from the training's own."""
    given = params.evaluation.finetune[backbone]
    chosen = params.optimizers[given.optimizer or params.backbones[backbone].optimizer]
    shared = params.training.model_dump(include={"precision", "weight_decay_on"})
    config = {
        **given.model_dump(mode="json", exclude={"optimizer", "view"}, exclude_defaults=True),
        **shared,
        "optimizer": _essential("optimizer", chosen, "name"),
        "view": _view(params, given.view),
    }
    used = registry.versions("optimizer", chosen["name"])
    used |= {part: part_version(part) for part in ("training", "views")}
    return config, {
        "finetune": part_version("finetune"),
        **{f"finetune {key}": version for key, version in used.items()},
    }


def _essential(kind: str, entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An entry with its component's name under `key`, without the options at their defaults."""
    options = {option: value for option, value in entry.items() if option != key}
    return {key: entry[key], **registry.essential(kind, entry[key], options)}


def _norm(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The norm of a section, and of its parts."""
    name, given = spec["norm"], registry.norm_options(spec)
    found = {"norm": name, **registry.essential("norm", name, given)}
    if "sites" in spec:
        found["sites"] = spec["sites"]
    if "parts" in spec:
        found["parts"] = [_norm(part) for part in spec["parts"]]
    return found


@functools.cache
def part_version(part: str) -> int:
    """The version of a part."""
    return int(registry.constant((PARTS | OPTIONAL)[part], "VERSION"))
