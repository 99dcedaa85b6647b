"""The checks of a `params.yaml` beyond its types: names that exist, options that components allow."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmark.components import registry, timm_models
from benchmark.components.facts import PIXELS, SECTIONS, TIMM
from benchmark.components.options import check_options
from benchmark.config import weights
from benchmark.config.presets import PRESETS
from benchmark.config.schema import BackboneParams, Control, Experiment, MethodParams, Params
from benchmark.core.errors import UserError, check_known, within

VIEWS_FILE = Path(__file__).parents[1] / "data" / "augment.py"


@functools.cache
def view_options() -> Mapping[str, Any]:
    """The fields of a view and their descriptions, read without importing torch."""
    return MappingProxyType(registry.constant(VIEWS_FILE, "OPTIONS"))


@functools.cache
def view_defaults() -> Mapping[str, Any]:
    """The defaults of fields that may be missing."""
    return MappingProxyType(registry.constant(VIEWS_FILE, "DEFAULTS"))


TEACHER = {"statistics": ["batch", "running", "momentum", "eman"], "shuffle": "bool"}
"""How a teacher's norms get their statistics; see `benchmark.methods.base.Policy`."""


def checked(params: Params) -> Params:
    """The same params with all options checked and their defaults added; UserError if one is wrong."""
    if PIXELS in params.backbones:
        raise UserError(f"backbones: {PIXELS} is the backbone of controls without a network")
    backbones = {name: _backbone(name, entry, params) for name, entry in params.backbones.items()}
    params = params.model_copy(update={"backbones": backbones})
    source = params.data.source
    options = registry.check("source", source, f"source {source}", params.data.options)
    # A preset that no experiment uses need not fit this track.
    asked = {
        name for experiment in params.experiments.values() for name in experiment.every("schemes")
    }
    schemes = {key: preset for key, preset in PRESETS.items() if key in asked} | params.schemes
    training = params.training
    teacher = check_options("training: teacher", training.teacher, TEACHER)
    params = params.model_copy(
        update={
            "training": training.model_copy(update={"teacher": teacher}),
            "data": params.data.model_copy(update={"options": options}),
            "optimizers": {
                name: _optimizer(name, optimizer) for name, optimizer in params.optimizers.items()
            },
            "views": {
                name: check_options(f"views: {name}", view, view_options(), view_defaults())
                for name, view in params.views.items()
            },
            "schemes": {name: _scheme(name, scheme, params) for name, scheme in schemes.items()},
            "methods": {
                name: _method(name, method, params) for name, method in params.methods.items()
            },
        }
    )
    _check_evaluation(params)
    for name, experiment in params.experiments.items():
        _check_experiment(name, experiment, params)
    reported = {
        seed for e in params.experiments.values() for grid in e.grids for seed in e.seeds_of(grid)
    }
    tuning = {"sweep: seeds": params.sweep.seeds} | {
        f"experiments: {name}.sweep_seeds": params.sweep_seeds(name) for name in params.experiments
    }
    for where, seeds in tuning.items():
        if shared := reported & set(seeds):
            raise UserError(f"{where} {sorted(shared)} are reported by an experiment")
    return params


def _backbone(name: str, entry: BackboneParams, params: Params) -> BackboneParams:
    check_known(f"optimizer of backbone {name}", [entry.optimizer], params.optimizers)
    where = f"backbone {name}: {entry.model}" if name != entry.model else f"backbone {name}"
    components = frozenset(registry.catalogue("backbone")) - {PIXELS, TIMM}
    if entry.weights is not None or entry.sha256 is not None:
        _check_weights(where, entry)
    if entry.model in components:
        if entry.stem or entry.layout:
            raise UserError(
                f"{where}: stem and layout are keys of timm's models; {entry.model} has arguments"
            )
        arguments = registry.check("backbone", entry.model, where, entry.arguments)
        return entry.model_copy(update={"arguments": arguments})
    timm_models.check(entry.model, components)
    check_known(f"key of {where}: layout", entry.layout, layout_options(TIMM))
    stem = entry.stem.model_dump(exclude_none=True) if entry.stem else {}
    given = {"architecture": entry.model, "arguments": entry.arguments, "stem": stem}
    options = registry.check("backbone", TIMM, where, given | entry.layout)
    return entry.model_copy(update={"model": TIMM, "arguments": options})


def _check_weights(where: str, entry: BackboneParams) -> None:
    found = registry.catalogue("backbone").get(entry.model, {"weights": True})
    if not found.get("weights"):
        raise UserError(
            f"{where}: its weights cannot come from a file, as those of timm's models can"
        )
    if entry.weights is None:
        raise UserError(f"{where}: sha256 is the checksum of a file, and it has no weights")
    with within(where):
        weights.check(entry.weights, entry.sha256)


def layout_options(component: str) -> dict[str, Any]:
    """The options of a backbone that a scheme may set, with their descriptions."""
    described = registry.facts("backbone", component)["options"]
    return {
        key: value
        for key, value in described.items()
        if component != TIMM or key not in ("architecture", "arguments", "stem")
    }


def _optimizer(entry: str, optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's options; `name` is its component, if the entry has another name."""
    name = str(optimizer.get("name", entry))
    given = {key: value for key, value in optimizer.items() if key != "name"}
    where = f"optimizers: {entry}" + (f": {name}" if name != entry else "")
    return {"name": name, **registry.check("optimizer", name, where, given)}


def _scheme(name: str, scheme: dict[str, Any], params: Params) -> dict[str, Any]:
    """A scheme with the norm of each section that it names; `heads` are all sections but the backbone.

    It may also set parts of a teacher's policy and some options of a backbone.
    """
    where = f"scheme {name}"
    others = {"teacher", "layout"}
    beside = {key: value for key, value in scheme.items() if key in others}
    sections = {key: value for key, value in scheme.items() if key not in others}
    if "norm" in sections:
        sections = {"backbone": sections, "heads": sections}
    if not sections:
        raise UserError(f"schemes: {name} names no norm, expected {{norm: …}} or sections")
    found: dict[str, Any] = {}
    check_known(f"section of {where}", sections, (*SECTIONS, "heads", *others))
    for section, spec in sections.items():
        if not isinstance(spec, dict) or not isinstance(spec.get("norm"), str):
            raise UserError(f"schemes: {name}.{section} is {spec!r}, expected {{norm: …}}")
        found[section] = _norm(where, spec)
        if "parts" in spec:
            if section != "backbone" or "norm" in scheme:
                raise UserError(f"schemes: {name} has parts, which only `backbone: {{…}}` may have")
            found[section]["parts"] = _parts(f"schemes: {name}.backbone", where, spec["parts"])
    for key, value in beside.items():
        described: dict[str, Any] = dict(TEACHER)
        if key == "layout":
            described = {}
            for model in sorted(params.models):
                described |= layout_options(model)
        if not isinstance(value, dict):
            raise UserError(f"schemes: {name}.{key} is {value!r}, expected options")
        check_known(f"option of {where}: {key}", value, described)
        described = {option: described[option] for option in value}
        found[key] = check_options(f"{where}: {key}", value, described)
    return found


def _norm(where: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A norm with all its options."""
    given = registry.norm_options(spec)
    checked = registry.check("norm", spec["norm"], f"{where}: {spec['norm']}", given)
    return {"norm": spec["norm"], **checked}


def _parts(key: str, where: str, parts: Any) -> list[dict[str, Any]]:
    """The norms of parts of a backbone; whether a pattern fits a site is known with the network."""
    if not isinstance(parts, list) or not parts:
        raise UserError(f"{key}.parts is {parts!r}, expected a list of {{sites: …, norm: …}}")
    for part in parts:
        named = isinstance(part, dict) and all(
            isinstance(part.get(k), str) for k in ("sites", "norm")
        )
        if not named or "parts" in part:
            raise UserError(f"{key}.parts has {part!r}, expected {{sites: …, norm: …}}")
    return [{"sites": part["sites"], **_norm(where, part)} for part in parts]


def _method(name: str, method: MethodParams | Control, params: Params) -> MethodParams | Control:
    component = method.method or name
    if component != name and name in registry.catalogue("method"):
        raise UserError(f"methods: {name} is a method, so it cannot extend {component}")
    facts = registry.facts("method", component)
    options = registry.check("method", component, f"method {name}", method.options)
    if (facts["views"] > 0) != isinstance(method, MethodParams):
        wanted = (
            "images_seen, views, learning_rate and weight_decay"
            if facts["views"]
            else "options alone"
        )
        raise UserError(f"methods: {name} needs {wanted}")
    method = method.model_copy(update={"options": options})
    if not isinstance(method, MethodParams):
        return method
    count, local = facts["views"], facts.get("local_views", False)
    if len(method.views) < count or (len(method.views) > count and not local):
        wanted = f"{count} or more" if local else count
        raise UserError(f"methods: {name} takes {wanted} views, not {len(method.views)}")
    check_known(f"view of method {name}", method.views, params.views)
    for view in method.views[:count]:
        if size := params.views[view].get("size"):
            after = f"; local views come after the first {count}" if local else ""
            raise UserError(
                f"methods: {name}.views: {view} has size {size}, expected the images' own size{after}"
            )
    for field in ("images_seen", "learning_rate", "weight_decay", "weight_decay_end", "optimizer"):
        if isinstance(given := getattr(method, field), dict):
            check_known(f"backbone in methods.{name}.{field}", given, params.backbones)
    check_known(
        f"optimizer in methods.{name}.optimizer", method.optimizer.values(), params.optimizers
    )
    check_known(
        f"section in methods.{name}.schedule.constant", method.schedule.constant, facts["sections"]
    )
    batch = method.batch_size or params.training.batch_size
    lengths = method.images_seen
    for backbone, count in (lengths if isinstance(lengths, dict) else {"": lengths}).items():
        if count < batch:
            where = f"{name}.images_seen" + (f".{backbone}" if backbone else "")
            raise UserError(f"methods: {where} is {count}, less than one batch of {batch}")
    if (other := method.learning_rates_from) is not None:
        recipes = {key: r for key, r in params.methods.items() if isinstance(r, MethodParams)}
        check_known(f"recipe of methods.{name}.learning_rates_from", [other], recipes)
        if recipes[other].learning_rates_from is not None:
            raise UserError(f"methods: {name} is tuned as {other}, which has no rates of its own")
    return method


def _check_evaluation(params: Params) -> None:
    tuned = params.evaluation.finetune
    check_known("backbone in evaluation.finetune", tuned, params.backbones)
    for name, recipe in tuned.items():
        where = f"evaluation.finetune.{name}"
        check_known(f"view in {where}", [recipe.view], params.views)
        if size := params.views[recipe.view].get("size"):
            raise UserError(
                f"{where}: view {recipe.view} has size {size}, expected the images' own size"
            )
        if recipe.optimizer is not None:
            check_known(f"optimizer in {where}", [recipe.optimizer], params.optimizers)
    if params.track in params.evaluation.transfer:
        raise UserError(f"evaluation.transfer: {params.track} is this track, expected another one")


def _check_experiment(name: str, experiment: Experiment, params: Params) -> None:
    for grid in experiment.grids:
        for kind in ("methods", "backbones", "schemes"):
            known = getattr(params, kind) | (PRESETS if kind == "schemes" else {})
            check_known(f"{kind} of experiment {name}:", getattr(grid, kind), known)
        for method in grid.methods:
            recipe = params.methods[method]
            for backbone in grid.backbones:
                if not isinstance(recipe, MethodParams):
                    continue
                for field in ("images_seen", "learning_rate", "weight_decay"):
                    given = getattr(recipe, field)
                    if isinstance(given, dict) and backbone not in given:
                        raise UserError(f"methods: {method}.{field} has no {backbone!r}")
