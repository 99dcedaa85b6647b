"""The diagnostics of whole cells."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.components import registry
from benchmark.diagnostics import collapse, leakage, stability
from benchmark.diagnostics.diagnose import LEAKAGE, diagnose
from benchmark.diagnostics.held_out import HeldOut
from benchmark.diagnostics.three_way import KEYS
from benchmark.execution.cell import run
from benchmark.methods.base import Method
from tests.golden.values import VIEWS
from tests.helpers import tiny
from tests.helpers.diagnosed import config, diagnosed, photos, splits, standardise
from tests.helpers.small import (
    BACKBONES,
    BATCH,
    TRAINED,
    backbones,
    build,
    configuration,
    legal,
    stir,
)

EMPTY = {"loss": torch.empty(0), "gradient_norm": torch.empty(0)}
SECTION = {
    "width",
    *collapse.measures(torch.randn(9, 4), None),
    "batch_dependence",
    "jacobian_ratio",
}
PRETEXT = {"pretext_same_group", "pretext_regrouped", "swap_gap", "swap_gap_initial"}
CELLS = [(m, f, n) for m in TRAINED for f in BACKBONES for n in ("bn", "ln") if legal(m, f, n)]
CELLS += [(m, "resnet", "ghost-bn") for m in TRAINED]


@pytest.fixture(autouse=True)
def _few_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    """One redraw of the groups of each batch: the mean over more of them takes most of the time."""
    monkeypatch.setattr(leakage, "REGROUPINGS", 5)


def stirred(method: str, backbone: str, norm: str, **changes: Any) -> Any:
    network: Any = build(method, backbone, norm, **changes).train()
    stir(network)
    # Statistics of a training, so that evaluation mode has something to normalize with.
    for seed in range(3):
        images = standardise(photos(BATCH, 100 + seed).float() / 255)
        network.backbone(images)
        if hasattr(network, "teacher"):
            network.teacher.network(images)
    return network


@pytest.mark.parametrize(("method", "backbone", "norm"), CELLS)
def test_every_key_is_there_and_nothing_is_changed(method: str, backbone: str, norm: str) -> None:
    network = stirred(method, backbone, norm)
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]

    def initial() -> Method:
        return build(method, backbone, norm)

    found = diagnosed(network, method, initial)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    if norm == "ghost-bn" and method in (
        "simclr",
        "moco",
        "mae",
    ):  # together they have all measures
        assert diagnosed(network, method, initial) == found
    facts = registry.facts("method", method)
    has = "projector" in facts["sections"]
    assert set(found) == {"sections", "leakage", "three_way"}
    assert set(found["sections"]) == ({"backbone", "projector"} if has else {"backbone"})
    for measures in found["sections"].values():
        assert set(measures) == SECTION
        assert all(isinstance(v, int | float) and math.isfinite(v) for v in measures.values())
    leaks = found["leakage"]
    if leaks["swap_gap"] is not None:
        assert 0 <= leaks["pretext_regrouped"] <= 1
        gap = leaks["pretext_same_group"] - leaks["pretext_regrouped"]
        assert leaks["swap_gap"] == pytest.approx(gap, abs=1e-12)
    missing = {key for key, value in found["leakage"].items() if value is None}
    assert set(found["leakage"]) == set(LEAKAGE)
    wanted = set(LEAKAGE) - {"masked_patch_change"}
    if norm == "ghost-bn":
        wanted = PRETEXT if facts["views"] == 1 else set()
    wanted |= {"masked_patch_change"} - ({"masked_patch_change"} if method == "mae" else set())
    assert missing == wanted
    assert set(found["three_way"]) == set(KEYS)
    for value in found["three_way"].values():
        assert (value is None) if norm == "ln" else (0 <= value <= 1)


def test_sections_are_measured_in_evaluation_mode() -> None:
    network = stirred("simclr", "resnet", "bn")
    found = diagnosed(network, "simclr")["sections"]
    with torch.no_grad():
        images = standardise(photos(40, 1).float() / 255)
        z = network.backbone.eval()(images)
        expected = collapse.measures(z, None)
        assert found["backbone"]["width"] == z.shape[1] == network.backbone.width
        for name in ("embedding_std", "rankme", "uniformity", "correlation"):
            assert found["backbone"][name] == pytest.approx(expected[name], rel=1e-4)
        z = network.projector.eval()(z)
        assert found["projector"]["embedding_std"] == pytest.approx(
            collapse.embedding_std(z), rel=1e-4
        )
        held_out = HeldOut(photos(40, 1), [VIEWS, VIEWS], standardise, 0)
        views = [
            network.embedding_networks()["projector"](held_out.views(0, 40, v)) for v in range(4)
        ]
        expected = collapse.measures(z, torch.stack(views, 1))
        for name in ("positive_cosine", "negative_cosine", "alignment", "lidar"):
            assert found["projector"][name] == pytest.approx(expected[name], rel=1e-4)


def test_a_collapsed_projector_is_seen_apart_from_its_backbone() -> None:
    network = build("simclr", "resnet", "bn")
    stir(network)
    with torch.no_grad():
        own = [p for name, p in network.named_parameters() if name.startswith("projector.")]
        for parameter in own:
            parameter.zero_()
        own[-1].fill_(1.0)
    found = diagnosed(network, "simclr")["sections"]
    assert found["projector"]["embedding_std"] == pytest.approx(0, abs=1e-6)
    assert found["backbone"]["embedding_std"] > 0.01
    # 0/0: nothing to be said of what a constant depends on.
    assert found["projector"]["batch_dependence"] is None
    assert found["projector"]["jacobian_ratio"] is None
    assert found["backbone"]["batch_dependence"] > 0


@pytest.mark.parametrize("norm", ["bn", "ghost-bn"])
def test_embeddings_that_are_not_finite_have_no_value(norm: str) -> None:
    network = build("simclr", "resnet", norm)
    with torch.no_grad():
        next(network.backbone.parameters()).fill_(float("nan"))
    found = diagnosed(network, "simclr")
    values = [found["sections"]["projector"], found["leakage"], found["three_way"]]
    known = {key for part in values for key, value in part.items() if value is not None}
    assert known <= {"width"}


@pytest.mark.parametrize(("backbone", "norm"), backbones())
def test_only_norms_of_the_batch_depend_on_it(backbone: str, norm: str) -> None:
    found = diagnosed(stirred("supervised", backbone, norm), "supervised")["sections"]["backbone"]
    if registry.facts("norm", norm)["batch_dependent"]:
        assert found["batch_dependence"] > 1e-3
        assert found["jacobian_ratio"] > 1e-3
    else:
        assert 0 <= found["batch_dependence"] < 1e-5
        assert found["jacobian_ratio"] == 0


@pytest.mark.parametrize("statistics", ["batch", "running", "momentum", "eman"])
def test_a_judged_teacher_depends_on_the_batch_if_its_policy_says_so(statistics: str) -> None:
    policy = {"teacher": {"statistics": statistics, "shuffle": False}}
    network = stirred("dino", "resnet", "bn", training=policy)
    found = diagnosed(network, "dino")["sections"]
    assert found["projector"]["batch_dependence"] > 1e-3  # the student's
    if statistics == "batch":
        assert found["backbone"]["batch_dependence"] > 1e-3
        assert found["backbone"]["jacobian_ratio"] > 1e-3
    else:
        assert found["backbone"]["batch_dependence"] < 1e-5
        assert found["backbone"]["jacobian_ratio"] == 0


def test_what_was_not_trained_has_no_batch() -> None:
    found = diagnosed(build("untrained", "resnet", "ghost-bn"), "untrained")
    measures = found["sections"]["backbone"]
    null = {key for key, value in measures.items() if value is None}
    assert null == {
        "positive_cosine", "negative_cosine", "alignment", "lidar",
        "batch_dependence", "jacobian_ratio",
    }  # fmt: skip
    assert found["leakage"] == dict.fromkeys(LEAKAGE)
    assert found["three_way"] == dict.fromkeys(KEYS)
    assert stability.measures(EMPTY) == {
        "loss_spikes": None, "gradient_spikes": None, "relative_update": {},
    }  # fmt: skip


def test_one_view_has_no_positives() -> None:
    network = stirred("simclr", "resnet", "ghost-bn")
    assert diagnosed(network, "simclr")["leakage"]["swap_gap"] is not None
    assert diagnosed(network, "simclr", views=1)["leakage"]["swap_gap"] is None


def test_local_views_are_not_measured() -> None:
    network = stirred("dino", "resnet", "ghost-bn")
    local = VIEWS | {"size": 8}

    def found(views: list[dict[str, Any]]) -> dict[str, Any]:
        given = configuration("dino", "resnet", "ghost-bn", training={"views": views})
        return diagnose(network, given, splits(), standardise, lambda: network)

    two = found([VIEWS, VIEWS])
    assert found([VIEWS, VIEWS, local, local]) == two
    assert found([VIEWS, local]) != two  # so it can fail


@pytest.mark.parametrize(
    "method", [m for m in TRAINED if registry.facts("method", m)["views"] == 2]
)
def test_an_untrained_network_exploits_nothing(method: str) -> None:
    def initial() -> Method:
        return build(method, "resnet", "ghost-bn", seed=3)

    leaks = diagnosed(initial(), method, initial)["leakage"]
    assert leaks["swap_gap"] is not None
    assert leaks["swap_gap"] == leaks["swap_gap_initial"]


@pytest.mark.parametrize("statistics", ["batch", "eman"])
def test_a_target_that_ignores_its_batch_has_no_swap_gap(statistics: str) -> None:
    policy = {"teacher": {"statistics": statistics, "shuffle": True}}
    network = stirred("moco", "resnet", "ghost-bn", training=policy)
    gaps = [diagnosed(network, "moco", seed=seed)["leakage"]["swap_gap"] for seed in range(2)]
    assert (max(map(abs, gaps)) < 1e-9) == (statistics == "eman")


def test_the_seed_draws_the_samples() -> None:
    network = stirred("moco", "resnet", "ghost-bn")
    one, other = (diagnosed(network, "moco", seed=seed) for seed in (0, 1))
    for name in ("positive_cosine", "batch_dependence", "jacobian_ratio"):
        assert one["sections"]["projector"][name] != other["sections"]["projector"][name]
    assert one["sections"]["backbone"]["rankme"] == other["sections"]["backbone"]["rankme"]


def test_a_split_below_two_batches_has_no_mates_to_draw() -> None:
    given = {"train": (photos(64), torch.arange(64) % 5), "test": (photos(15), torch.arange(15))}
    network = stirred("simclr", "resnet", "ghost-bn")
    found = diagnose(network, config(2), given, standardise, lambda: network)
    assert found["leakage"] == dict.fromkeys(LEAKAGE)
    assert found["sections"]["backbone"]["batch_dependence"] is None
    assert found["sections"]["backbone"]["lidar"] is not None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.project(tmp_path_factory.mktemp("project"))


def test_records_hold_them(project: Path) -> None:
    def result(label: str) -> dict[str, Any]:
        task = tiny.cell(label).on(tiny.dataset(project))
        where = project / "data" / "mini", tiny.store(project), torch.device("cpu")
        found = run(task, *where, lambda *_: True)
        assert found.status == ("diverged" if "supervised" in label else "done")
        return found.result.diagnostics

    done = result("simclr-resnet-bn-s0")
    assert set(done) == {"sections", "leakage", "three_way", "stability"}
    assert done["sections"]["projector"]["lidar"] > 1
    updates = done["stability"]["relative_update"]
    assert set(updates) == {"backbone", "projector"}
    assert all(0 < update < 1 for update in updates.values())
    assert 0 <= done["three_way"]["train_batch"] <= 1
    # One that has diverged has no embeddings, and still a history.
    assert set(result("supervised-resnet-none-plain-s0")) == {"stability"}
    pixels = result("raw-pixels-pixels-none-s0")
    assert set(pixels["sections"]) == {"backbone"}
    assert pixels["stability"] == {
        "loss_spikes": None, "gradient_spikes": None, "relative_update": {},
    }  # fmt: skip
