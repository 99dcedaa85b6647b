"""A training that was interrupted goes on to the same bits."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmark.components import registry
from benchmark.core import determinism
from benchmark.evaluation.online_knn import make_online_knn
from benchmark.methods.base import Method
from benchmark.planning import plan
from benchmark.planning.cell import Row
from benchmark.training import loop, network
from benchmark.training.loop import MARKS, Interrupted, Progress, Trained, train
from tests.helpers import tiny

BATCH, STEPS, EPOCH = 16, 30, 4
"""The losses are checked at step 25 and an epoch has 4; MARKS are at 1, 1, 2, 4, 8, 15 and 30."""
EARLY, LATE = 13, 25
"""Steps at which a training is interrupted, besides the last."""

COUNT = BATCH * EPOCH
MANIFEST = tiny.manifest(count=COUNT)
CASES = [
    ("simclr", "resnet", "bn"),
    ("moco", "resnet", "bn"),
    ("mae", "resnet", "bn"),
    ("rotation", "resnet", "gn"),
    ("supervised", "resnet", "none-skipinit"),
    ("simclr", "vit", "bn"),
    ("moco", "vit", "ln"),
    ("mae", "vit", "ln"),
    ("rotation", "vit", "ln"),
    # Statistics with a history, of the student and of the teacher.
    ("supervised", "resnet", "batch-renorm"),
    ("moco", "resnet", "ghost-bn"),
    ("byol", "resnet", "bn-momentum"),
    ("byol", "vit", "bn"),
    ("mocov3", "vit", "bn-eman"),
    ("simsiam", "resnet", "bn"),
    ("barlow", "resnet", "bn"),
    ("vicreg", "vit", "ln"),
    ("lejepa", "vit", "gn"),
    ("swav", "resnet", "bn"),
    ("swav", "vit", "ln"),
    ("dino", "resnet", "bn"),
    ("dino", "vit", "bn-running"),
]
LOCAL = [("swav", "resnet", "bn"), ("dino", "vit", "bn-eman"), ("lejepa", "vit", "ln")]
"""Trainings with local views too."""
FROZEN = 0.6
"""Prototypes are frozen at the first of the interruptions below, and not at the second."""
OPTIONS: dict[str, dict[str, Any]] = {
    "moco": {"queue": BATCH},
    "mocov3": {"hidden": 16, "output": 8},
    "byol": {"hidden": 16, "output": 8},
    "simsiam": {"output": 16, "bottleneck": 8},
    "barlow": {"hidden": 16, "output": 8},
    "vicreg": {"hidden": 16, "output": 8},
    # A quarter full at the first of the interruptions, full and in use at the second.
    "swav": {
        "hidden": 16, "output": 8, "prototypes": 12, "queue": 4 * BATCH, "queue_from": 0.4,
        "freeze": FROZEN,
    },
    "dino": {"hidden": 16, "bottleneck": 8, "prototypes": 12, "freeze": FROZEN},
    "lejepa": {"hidden": 16, "output": 8, "slices": 16},
}  # fmt: skip
"""What makes the heads small, and the state of a method one that a checkpoint must hold."""


OnlineKnn = Callable[[Callable[[], bool]], float | None]


def always(*_: object) -> bool:
    return True


def until(last: int) -> Progress:
    """Asks the training to stop after so many steps."""
    return lambda step, steps, loss: step < last


class Case:
    """One training of a small network on noise."""

    def __init__(
        self, method: str, backbone: str, scheme: str, folder: Path, local: bool = False,
        **optimizer: Any,
    ) -> None:  # fmt: skip
        tree = tiny.multi_crop(tiny.raw(), method) if local else tiny.raw()
        if optimizer:
            tree["optimizers"]["other"] = optimizer
            tree["backbones"][backbone]["optimizer"] = "other"
        tree["training"]["batch_size"] = BATCH
        tree["methods"][method]["images_seen"] = BATCH * STEPS
        tree["methods"][method]["learning_rate"] = {"resnet": 0.05, "vit": 0.002}
        tree["methods"][method]["options"] |= OPTIONS.get(method, {})
        # A preset is known where an experiment asks for it.
        tree["experiments"]["leaderboard"]["schemes"] = [scheme]
        row = Row(method, backbone, scheme)
        params = tiny.params(tree)
        setting = plan.default_setting(params, row)
        self.cell = plan.resolve(params, "e", row, 0, setting, "test", "label")
        self.checkpoint = folder / "checkpoint.safetensors"
        dice = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (COUNT, 1, 16, 16), dtype=torch.uint8, generator=dice)
        self.labels = torch.randint(0, 4, (COUNT,), generator=dice)

    def build(self) -> Method:
        # As a cell is laid out in memory.
        return network.build(self.cell, MANIFEST).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lacks this form

    def train(
        self,
        progress: Progress = always,
        checkpoint: Path | None = None,
        fingerprint: str = "this cell",
        every: int | None = 200,
        online_knn: Callable[[Method], OnlineKnn] | None = None,
    ) -> tuple[Method, Trained]:
        method = self.build()
        trained = train(
            method, self.cell.config.recipe, self.cell.config.seed, self.images, self.labels,
            lambda x: ((x - 0.5) / 0.3).contiguous(memory_format=torch.channels_last),
            determinism.start("cpu"), checkpoint or self.checkpoint, fingerprint, progress, every,
            online_knn and online_knn(method),
        )  # fmt: skip
        return method, trained


def shorten(case: Case, **changes: Any) -> Case:
    """The case with a training of an epoch, and with other changes of its recipe."""
    config = case.cell.config
    recipe = config.recipe.model_copy(update={"images_seen": EPOCH * BATCH, **changes})
    case.cell = replace(case.cell, config=config.model_copy(update={"training": recipe}))
    return case


def assert_same(ours: tuple[nn.Module, Trained], theirs: tuple[nn.Module, Trained]) -> None:
    """The same weights, buffers, curves and facts, to the bit; only where it began may differ."""
    states = [network.state_dict() for network, _ in (ours, theirs)]
    assert states[0].keys() == states[1].keys()
    different = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
    assert not different
    for name, curve in ours[1].curves.items():
        torch.testing.assert_close(
            curve, theirs[1].curves[name], rtol=0, atol=0, equal_nan=True, msg=name
        )
    facts: list[tuple[Any, ...]] = [
        (t.status, t.steps, t.first_non_finite, t.flops_per_step) for _, t in (ours, theirs)
    ]
    assert facts[0] == facts[1]


@pytest.mark.parametrize(
    ("method", "backbone", "scheme", "local"),
    [*((*case, False) for case in CASES), *((*case, True) for case in LOCAL)],
)
def test_interrupted_again_and_again_gives_the_same_bits(
    tmp_path: Path, method: str, backbone: str, scheme: str, local: bool
) -> None:
    case = Case(method, backbone, scheme, tmp_path, local)
    whole = case.train()
    assert whole[1].status == "done"
    assert whole[1].resumed_at == 0
    for last in (EARLY, LATE, STEPS):
        with pytest.raises(Interrupted):
            case.train(until(last))
    resumed = case.train()
    assert resumed[1].resumed_at == STEPS
    assert_same(resumed, whole)


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
@pytest.mark.parametrize("adapt", ["weights", "all"])
@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_layerwise_optimizer_is_resumed_with_the_same_bits(
    tmp_path: Path, name: str, adapt: str, backbone: str
) -> None:
    """DINO's prototypes are frozen at the first interruption, and have fewer steps at the second."""
    case = Case("dino", backbone, "bn", tmp_path, name=name, adapt=adapt)
    whole = case.train()
    for last in (EARLY, LATE):
        with pytest.raises(Interrupted):
            case.train(until(last))
    assert_same(case.train(), whole)
    plain = Case("dino", backbone, "bn", tmp_path).train(checkpoint=tmp_path / "none")
    assert not torch.equal(whole[1].curves["loss"], plain[1].curves["loss"])


def test_interrupted_anywhere_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    case = Case("moco", "vit", "bn", tmp_path)
    whole = case.train()
    for last in (EARLY, LATE, STEPS):
        with pytest.raises(Interrupted):
            case.train(until(last))
        resumed = case.train()
        assert resumed[1].resumed_at == last
        assert_same(resumed, whole)
        case.checkpoint.unlink()


def test_every_method_is_interrupted_somewhere() -> None:
    trained = {name for name, facts in registry.catalogue("method").items() if facts["views"]}
    assert {method for method, _, _ in CASES} == trained


@pytest.mark.parametrize(
    ("method", "scheme", "held"),
    [
        ("swav", "bn", {"queue": 0.25}),
        ("dino", "bn", {"center": 1.0}),
        ("byol", "bn-momentum", {"teacher.network.0.net.bn1.running_mean": 1.0}),
        ("supervised", "batch-renorm", {"backbone.net.bn1.num_batches_tracked": 1.0}),
    ],
)
def test_the_state_of_a_method_is_in_its_checkpoint(
    tmp_path: Path, method: str, scheme: str, held: dict[str, float]
) -> None:
    """Each by the share of it that is no longer zero."""
    case = Case(method, "resnet", scheme, tmp_path)
    with pytest.raises(Interrupted):
        case.train(until(EARLY))
    tensors = load_file(case.checkpoint)
    for key, share in held.items():
        assert float((tensors[f"network/{key}"] != 0).float().mean()) == share


def test_killed_between_two_checkpoints_goes_on_from_the_last(tmp_path: Path) -> None:
    """At the start of an epoch, in its middle and at its end."""
    case = Case("simclr", "vit", "bn", tmp_path)
    whole = case.train()

    class Killed(Exception):
        pass

    def kill(step: int, *_: object) -> bool:
        if step == 25:
            raise Killed
        return True

    for every, last in [(8, 24), (11, 22), (7, 21), (1, 24)]:
        with pytest.raises(Killed):
            case.train(kill, every=every)  # after step 25, before it is saved
        resumed = case.train()
        assert resumed[1].resumed_at == last
        assert_same(resumed, whole)
        case.checkpoint.unlink()


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (
            0,
            [1, 3, 7, 12, 17, 22],
        ),  # after 7, 21, 49 and then every 35 s, which is at most 30 s late
        (1, [1, 9, 17]),  # not before 50 s have passed, of which 2 % is 1 s
    ],
)
def test_checkpoints_come_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: int, expected: list[int]
) -> None:
    """On a clock that moves 7 s in a step and `cost` s in a checkpoint; no bit changes."""
    case = Case("moco", "resnet", "bn", tmp_path)
    whole = case.train()
    saves, now = [], 0.0
    save = loop.save_checkpoint

    def slow(step: int, *_: object) -> bool:
        nonlocal now
        now += 7
        return step < LATE

    def noted(path: Path, fingerprint: str, step: int, *rest: Any) -> None:
        nonlocal now
        now += cost
        saves.append(step)
        save(path, fingerprint, step, *rest)

    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    monkeypatch.setattr(loop, "save_checkpoint", noted)
    with pytest.raises(Interrupted):
        case.train(slow, every=None)
    assert saves == [step for step in expected if step < LATE] + [LATE]
    assert_same(case.train(), whole)


def test_stopped_in_a_judgement_it_is_judged_when_resumed(tmp_path: Path) -> None:
    """At every mark, with the score that an undisturbed training has."""
    case = Case("simclr", "resnet", "bn", tmp_path)

    def online_knn(method: Method) -> OnlineKnn:
        images = case.images, case.labels
        return make_online_knn(
            method.eval_backbone,
            images,
            images,
            5,
            0.1,
            BATCH,
            lambda x: (x - 0.5) / 0.3,
            None,
            (48, 40),
        )

    whole = case.train(online_knn=online_knn)
    assert not whole[1].online_knn.isnan().any()
    for at in (1, 4, 15, STEPS):
        with pytest.raises(Interrupted):
            case.train(until(at), online_knn=online_knn)
        saved = load_file(case.checkpoint)["curve/watched"]
        assert int(saved.isnan().sum()) == len(MARKS) - [1, 1, 2, 4, 8, 15, STEPS].index(at)
        resumed = case.train(online_knn=online_knn)
        assert resumed[1].resumed_at == at
        assert torch.equal(resumed[1].online_knn, whole[1].online_knn)
        assert_same(resumed, whole)
        case.checkpoint.unlink()


def test_a_training_stopped_in_its_last_judgement_is_still_found_to_diverge(tmp_path: Path) -> None:
    case = Case("supervised", "resnet", "bn", tmp_path)
    shorten(case, learning_rate=1e30)  # the losses are checked at the end alone

    def online_knn(method: Method) -> OnlineKnn:
        return lambda go_on: 0.5 if go_on() else None

    _, whole = case.train(online_knn=online_knn)
    assert whole.status == "diverged"
    with pytest.raises(Interrupted):
        case.train(until(4), online_knn=online_knn)
    _, resumed = case.train(online_knn=online_knn)
    assert (resumed.status, resumed.resumed_at) == ("diverged", 4)
    assert resumed.first_non_finite == whole.first_non_finite


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"{}" + data[2:],
        lambda data: b"\xff" * 16 + data[16:],
    ],
    ids=["empty", "half", "header cut", "header changed", "header length"],
)
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    case = shorten(Case("simclr", "vit", "ln", tmp_path))
    with pytest.raises(Interrupted):
        case.train(until(2))
    case.checkpoint.write_bytes(damage(case.checkpoint.read_bytes()))
    assert case.train()[1].resumed_at == 0


def test_the_checkpoint_of_another_cell_is_ignored(tmp_path: Path) -> None:
    case = shorten(Case("simclr", "vit", "ln", tmp_path))
    whole = case.train(checkpoint=tmp_path / "none")
    with pytest.raises(Interrupted):
        case.train(until(2), fingerprint="another cell")
    again = case.train()
    assert again[1].resumed_at == 0
    assert_same(again, whole)


def test_a_safetensors_file_of_something_else_is_ignored(tmp_path: Path) -> None:
    case = shorten(Case("simclr", "vit", "ln", tmp_path))
    save_file({"weight": torch.zeros(3)}, case.checkpoint)
    assert case.train()[1].resumed_at == 0


def test_a_checkpoint_holds_tensors_and_no_pickle(tmp_path: Path) -> None:
    case = Case("moco", "resnet", "bn", tmp_path)
    with pytest.raises(Interrupted):
        case.train(until(2))
    tensors = load_file(case.checkpoint)
    assert {key.split("/")[0] for key in tensors} == {"network", "optimizer", "curve"}
    assert "network/queue" in tensors
    with pytest.raises(ValueError):
        list(pickletools.genops(case.checkpoint.read_bytes()))
