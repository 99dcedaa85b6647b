"""A step in micro-batches is the step of the whole batch, for every method and norm that allows it."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.methods.micro_batches import MicroBatches
from benchmark.norms.bases import batch_norms
from benchmark.training import accumulation, loop
from benchmark.training.loop import Interrupted
from tests.helpers import small
from tests.helpers.trainings import (
    BATCH,
    FACTS,
    STEPS,
    Killed,
    Passed,
    built,
    configured,
    differences,
    passed,
)

PARTS, OF = 4, 16
"""`OF` is the number of samples in a group of ghost BN, as in a micro-batch."""
ALLOWED = [method for method in small.TRAINED if FACTS[method].get("per_sample_loss")]
REFUSED = sorted((small.OWN["method"] & {*small.TRAINED}) - {*ALLOWED})


def ghost(entries: int, assignment: str, of: int = OF) -> dict[str, Any]:
    """Ghost BN with groups of so many of a pass's samples."""
    return {"norm": "ghost-bn", "groups": entries // of, "assignment": assignment}


def compare(
    folder: Path,
    method: str,
    backbone: str,
    norms: Any,
    training: dict[str, Any] | None = None,
    parts: int = PARTS,
    **options: Any,
) -> list[str]:
    """What differs between a training in parts and one without."""
    config = configured(method, backbone, norms, training or {}, options)
    whole, divided = passed(folder, config, 1), passed(folder, config, parts)
    assert whole.trained.curves["loss"].isfinite().all()
    assert whole.trained.flops_per_step == divided.trained.flops_per_step
    return differences(whole, divided)


def entries(method: str) -> int:
    """The samples of a forward pass, with the views batched as the method's authors do."""
    joint = FACTS[method].get("view_batching") == "joint"
    return BATCH * (FACTS[method]["views"] if joint else 1)


QUICK = {
    *itertools.product(ALLOWED, ["resnet"], ["strided"]), ("moco", "vit", "contiguous"),
    ("mae", "vit", "ln"), ("dino", "resnet", "contiguous"), ("byol", "resnet", "gn"),
}  # fmt: skip
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in itertools.product(ALLOWED, small.BACKBONES, ("ln", "gn", "contiguous", "strided"))
]


@pytest.mark.parametrize(("method", "backbone", "norm"), CASES)
def test_four_parts_are_one_batch(tmp_path: Path, method: str, backbone: str, norm: str) -> None:
    """Of 16 images each. The teachers shuffle their batch, so that their groups are of other images."""
    if norm in ("ln", "gn"):
        norms = {"norm": norm, **small.options("norm", norm)}
    else:
        norms = ghost(entries(method), norm)
    assert compare(tmp_path, method, backbone, norms) == []


POLICY = {"teacher": {"statistics": "batch", "shuffle": False}}
EMAN = {"teacher": {"statistics": "eman", "shuffle": True}}
JOINT = {"view_batching": "joint"}
BOTH = {"symmetric": True, "queue": 2 * BATCH}
OTHERS: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "symmetric": ("moco", ghost(BATCH, "strided"), {}, BOTH),
    "symmetric and joint": ("moco", ghost(BATCH, "strided"), JOINT, BOTH),
    "joint and contiguous": ("byol", ghost(2 * BATCH, "contiguous"), JOINT, {}),
    "joint and strided": ("simsiam", ghost(2 * BATCH, "strided", 2 * OF), JOINT, {}),
    "four turns, contiguous": ("rotation", ghost(4 * BATCH, "contiguous", 4 * OF), {}, {"rotations": 4}),
    "four turns, strided": ("rotation", ghost(4 * BATCH, "strided"), {}, {"rotations": 4}),
    "not shuffled": ("moco", ghost(BATCH, "contiguous"), POLICY, {}),
    "teacher without batch statistics": ("byol", ghost(BATCH, "strided"), EMAN, {}),
    "one group for each image": ("supervised", ghost(BATCH, "contiguous", 1), {}, {}),
    "other groups by section": (
        "byol",
        {"backbone": ghost(BATCH, "strided", 8), "projector": ghost(BATCH, "strided")},
        {},
        {},
    ),
    "a decoder of another norm": ("mae", {"backbone": ghost(BATCH, "strided")}, {}, {}),
    "clipped": ("dino", {"norm": "ln"}, {"clip_grad_norm": 0.1}, {}),
    "other loss": ("byol", {"norm": "ln"}, {}, {"loss_norm": "layer"}),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_parts_are_one_batch_whatever_the_recipe(tmp_path: Path, case: str) -> None:
    method, norms, training, options = OTHERS[case]
    assert compare(tmp_path, method, "resnet", norms, training, **options) == []


@pytest.mark.parametrize("parts", [2, 16, 64])
def test_any_number_of_parts(tmp_path: Path, parts: int) -> None:
    assert compare(tmp_path, "supervised", "resnet", {"norm": "ln"}, parts=parts) == []


@pytest.mark.parametrize("method", REFUSED)
def test_a_method_that_is_refused_would_have_another_loss(tmp_path: Path, method: str) -> None:
    """Without a norm of the batch, so that it is the loss alone that needs the whole batch."""
    assert "curve loss" in compare(tmp_path, method, "resnet", {"norm": "ln"})


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        (method, option, value)
        for method in ALLOWED
        for option, values in FACTS[method].get("whole_batch_loss", {}).items()
        for value in values
    ],
)
def test_an_option_that_is_refused_would_give_another_loss(
    tmp_path: Path, method: str, option: str, value: Any
) -> None:
    given = {option: value}
    assert "curve loss" in compare(tmp_path, method, "resnet", {"norm": "ln"}, **given)


@pytest.mark.parametrize("norm", ["bn", "batch-renorm"])
def test_a_norm_that_is_refused_would_have_other_statistics(tmp_path: Path, norm: str) -> None:
    norms = {"norm": norm, **small.options("norm", norm)}
    found = compare(tmp_path, "supervised", "resnet", norms)
    assert {"curve loss", "state backbone.net.bn1.running_var"} <= {*found}


def test_parts_of_other_images_would_be_other_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accumulation, "division", lambda _, n: MicroBatches(n, strided=False))
    monkeypatch.setattr(loop, "division", accumulation.division)
    for assignment, same in (("contiguous", True), ("strided", False)):
        found = compare(tmp_path, "supervised", "resnet", ghost(BATCH, assignment))
        assert (found == []) == same


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(("n", "count"), [(12, 1), (12, 3), (12, 4), (12, 12)])
def test_parts_are_made_of_whole_groups(n: int, count: int, strided: bool) -> None:
    rows = [part.tolist() for part in MicroBatches(count, strided).rows(n)]
    assert sorted(itertools.chain(*rows)) == list(range(n))
    for part, members in enumerate(rows):
        assert members == sorted(members)
        assert members == [
            i for i in range(n) if (i % count if strided else i * count // n) == part
        ]
    for groups in range(count, n + 1, count):
        if n % groups == 0:
            of = [{i % groups if strided else i * groups // n for i in members} for members in rows]
            assert sum(map(len, of)) == groups


def assert_same_bits(one: Passed, other: Passed) -> None:
    assert all(torch.equal(value, other.state[key]) for key, value in one.state.items())
    assert torch.equal(one.trained.curves["loss"], other.trained.curves["loss"])


@pytest.mark.parametrize(
    ("method", "norms"),
    [
        ("moco", ghost(BATCH, "strided")),
        ("dino", {"norm": "ln"}),
        ("mae", {"norm": "gn", "groups": 4}),
    ],
)
def test_interrupted_in_parts_and_resumed_gives_the_same_bits(
    tmp_path: Path, method: str, norms: Any
) -> None:
    config = configured(method, "resnet", norms, {}, {})
    whole = passed(tmp_path / "whole", config, PARTS)
    for last in range(1, STEPS):
        with pytest.raises(Interrupted):
            passed(tmp_path, config, PARTS, lambda step, *_, last=last: step < last)
    resumed = passed(tmp_path, config, PARTS)
    assert resumed.trained.resumed_at == STEPS - 1
    assert_same_bits(resumed, whole)


def test_killed_between_two_parts_goes_on_from_the_last_whole_step(tmp_path: Path) -> None:
    config = configured("moco", "resnet", ghost(BATCH, "strided"), {}, {})
    whole = passed(tmp_path / "whole", config, PARTS)
    with pytest.raises(Killed):
        passed(tmp_path, config, PARTS, passes=2 * PARTS + 3)
    resumed = passed(tmp_path, config, PARTS)
    assert resumed.trained.resumed_at == 2
    assert_same_bits(resumed, whole)


def test_passes_of_the_parts_have_the_precision_of_the_recipe() -> None:
    """In bfloat16 the loss is near that of float32, and another."""
    losses = {}
    given = small.batch("byol")
    for precision in (torch.bfloat16, torch.float32):
        mixed = functools.partial(torch.autocast, "cpu", precision, precision == torch.bfloat16)
        for parts in (1, 4):
            method = small.build("byol", "resnet", "ln")
            division = MicroBatches(parts, strided=False)
            outcome = accumulation.accumulate(method, given, division, mixed)
            losses[precision, parts] = float(outcome.loss)
    assert losses[torch.float32, 4] == pytest.approx(losses[torch.float32, 1], rel=1e-6)
    assert losses[torch.bfloat16, 4] == pytest.approx(losses[torch.bfloat16, 1], rel=1e-2)
    assert losses[torch.bfloat16, 4] != pytest.approx(losses[torch.float32, 4], rel=1e-5)


def test_groups_are_whole_again_after_a_step_and_after_an_error(tmp_path: Path) -> None:
    """The online kNN, the diagnostics and the next step use the same layers."""
    config = configured("moco", "resnet", ghost(BATCH, "strided"), {}, {})
    method = built(config)
    layers = [layer for layer in batch_norms(method) if hasattr(layer, "groups")]
    assert layers
    parts = MicroBatches(PARTS, strided=True)
    given: list[int] = []

    def run(number: int) -> None:
        given.extend(layer.groups for layer in layers)
        if number == 2:
            raise MemoryError

    with pytest.raises(MemoryError):
        parts.each(method, run)
    assert set(given) == {1}
    assert {layer.groups for layer in layers} == {PARTS}


def test_statistics_of_layers_that_no_part_passes_keep_their_bits() -> None:
    """As the teacher's, while the student's parts are run."""
    method = built(configured("moco", "resnet", ghost(BATCH, "strided"), {}, {}))
    for buffer in method.buffers():
        if buffer.is_floating_point():
            buffer.add_(math.pi)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    MicroBatches(3, strided=True).each(method, lambda number: None)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
