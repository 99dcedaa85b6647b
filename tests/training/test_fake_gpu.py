"""A step on a GPU, without one: every operation is on the device, and none makes the host wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.components import registry
from benchmark.core.randomness import Draw
from benchmark.core.transfer import send
from benchmark.data.augment import view
from benchmark.methods.base import Method
from benchmark.methods.micro_batches import MicroBatches
from benchmark.norms.history import POLICIES
from benchmark.training import loop
from benchmark.training.accumulation import accumulate
from benchmark.training.loop import train
from tests.helpers import small
from tests.helpers.fake_gpu import GPU, Waits, fake_gpu, no_backward, on_gpu
from tests.helpers.slow import rest_slow

ALLOWED: dict[str, str] = {}
"""What waits in a step, and why it may."""
AT_FIRST = {
    "_to_copy data/augment.py _by_channel": "a constant of the views, once in a process",
    "_to_copy backbones/masking.py _resampling": "a constant of local views, once in a process",
}
"""What waits in the first step alone."""
CASES = small.combinations()
STRONG = small.LIVELY | {"solarize": 0.2}


def passed(network: Method, given: Any, mixed: bool = False) -> dict[str, int]:
    """What waits in a forward pass on the device, and in what follows a step."""
    with fake_gpu():
        network = network.to(GPU)
        drawn = send({"method": network.draws(given.draw, given.size)}, GPU)["method"]
        given = on_gpu(given)._replace(drawn=drawn)
        with Waits() as waits, torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            outcome = network(given)
            network.after_step(given.progress)
        assert outcome.loss.device.type == "cuda"
        assert outcome.loss.requires_grad
        # A teacher's and a queue's state, too, stay where they are.
        assert {value.device.type for value in network.state_dict().values()} == {"cuda"}
    return waits.take()


# Every method, and every norm on maps, on tokens and in each kind of head and decoder.
@pytest.mark.parametrize(
    ("method", "backbone", "norm"),
    rest_slow(CASES, lambda case: case[2] == "bn" or case[0] in ("byol", "mae")),
)
def test_every_network_passes_on_a_gpu(method: str, backbone: str, norm: str) -> None:
    assert passed(small.build(method, backbone, norm), small.batch(method)).keys() <= ALLOWED.keys()


@pytest.mark.parametrize("method", small.TRAINED)
def test_mixed_precision_passes_on_a_gpu(method: str) -> None:
    network = small.build(method, "vit", "ln")
    assert passed(network, small.batch(method), mixed=True).keys() <= ALLOWED.keys()


@pytest.mark.parametrize("policy", [*POLICIES, "eman"])
def test_teachers_pass_on_a_gpu(policy: str) -> None:
    training = {"teacher": {"statistics": policy, "shuffle": False}}
    network = small.build("byol", "resnet", "bn", training=training)
    assert not passed(network, small.batch("byol", 1))


@pytest.mark.parametrize("backbone", small.BACKBONES)
@pytest.mark.parametrize("method", ["swav", "dino", "lejepa"])
def test_local_views_pass_on_a_gpu(method: str, backbone: str) -> None:
    network = small.build(method, backbone, "bn", training={"view_batching": "joint"})
    given = small.batch(method, 1)
    local = [small.images(seed=seed)[:, :, :8, :8] for seed in range(2)]
    found = passed(network, given._replace(views=[*given.views, *local]))
    assert found.keys() <= ALLOWED.keys() | AT_FIRST.keys()


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [0, 12])
def test_views_pass_on_a_gpu(kind: torch.dtype, channels: int, size: int) -> None:
    with fake_gpu():
        images = torch.zeros(8, channels, 28, 28, dtype=kind, device=GPU)
        with Waits() as waits:
            for seed in range(2):
                made = view(images, STRONG | {"size": size}, Draw(0, seed).generator("view"))
                found = waits.take()
                assert found.keys() <= ({} if seed else AT_FIRST).keys()
    assert made.device.type == "cuda"
    assert made.shape == (8, channels, size or 28, size or 28)


@pytest.mark.parametrize("method", ["simsiam", "moco", "mae"])
def test_micro_batches_pass_on_a_gpu(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small.build(method, "resnet", "ghost-bn")
    no_backward(monkeypatch, network)
    with fake_gpu():
        network = network.to(GPU)
        given = on_gpu(small.batch(method))
        given = given._replace(
            drawn=send({"method": network.draws(given.draw, given.size)}, GPU)["method"]
        )
        with Waits() as waits:
            outcome = accumulate(
                network, given, MicroBatches(2, strided=False),
                lambda: torch.autocast("cuda", torch.bfloat16, enabled=False),
            )  # fmt: skip
        assert outcome.loss.device.type == "cuda"
        assert not waits.take()


class Enough(Exception):
    """Ends a training run."""


def steps_of(
    method: str, folder: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, **recipe: Any
) -> list[dict[str, int]]:
    """What waits in each of the first three steps of a training run."""
    network = small.build(method, backbone, "bn")
    no_backward(monkeypatch, network)
    # On a slow machine one is due; there are no values to save.
    monkeypatch.setattr(loop, "save_checkpoint", lambda *_: None)
    found = []

    def progress(done: int, *_: Any) -> bool:
        found.append(waits.take())
        if done == 3:
            raise Enough
        return True

    views = [STRONG] * registry.facts("method", method)["views"]
    with fake_gpu():
        images = torch.zeros(64, 3, small.SIDE, small.SIDE, dtype=torch.uint8, device=GPU)
        labels = torch.zeros(64, dtype=torch.int64, device=GPU)
        network = network.to(GPU)
        given = small.recipe(images_seen=10 * small.BATCH, views=views, **recipe)
        with Waits() as waits, pytest.raises(Enough):
            train(
                network, given, 0, images, labels,
                lambda x: x.contiguous(memory_format=torch.channels_last), GPU,
                folder / "checkpoint", "this", progress,
            )  # fmt: skip
    assert len(found) == 3
    return found


@pytest.mark.parametrize("method", small.TRAINED)
def test_no_step_waits_for_the_device(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = steps_of(method, tmp_path, monkeypatch, "vit")
    assert first.keys() <= ALLOWED.keys() | AT_FIRST.keys()
    assert all(found.keys() <= ALLOWED.keys() for found in others)


# LAMB decides by the numbers of its steps, which are on the CPU, and here have no values.
@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_no_optimizer_waits_for_the_device(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        "optimizer": {"name": optimizer, **small.options("optimizer", optimizer)},
        "clip_grad_norm": 1.0, "precision": "bfloat16",
    }  # fmt: skip
    others = steps_of("simclr", tmp_path, monkeypatch, "resnet", **recipe)[1:]
    assert all(found.keys() <= ALLOWED.keys() for found in others)


def waiting() -> dict[str, Any]:
    """Ways to wait for the device, with `x` (3,) on it and `y` (3,) on the CPU."""
    return {
        "a number": lambda x, y: float(x[0]),
        "a truth": lambda x, y: bool((x > 0).any()),
        "a choice": lambda x, y: x[x > 0],
        "an assignment to a choice": lambda x, y: x.__setitem__(x > 0, x[:1]),
        "places": lambda x, y: x.nonzero(),
        "a copy there": lambda x, y: y.to(GPU),
        "a copy back": lambda x, y: x.cpu(),
        "a copy into": lambda x, y: x.copy_(y),
        "a constant": lambda x, y: torch.tensor([1.0, 2.0], device=GPU),
        "an index": lambda x, y: x[y.long()],
        "an index that is assigned to": lambda x, y: x.__setitem__(y.long(), x),
    }


@pytest.mark.parametrize("name", waiting())
def test_what_waits_is_found(name: str) -> None:
    with fake_gpu():
        x, y = torch.zeros(3, device=GPU), torch.zeros(3)
        with Waits() as waits:
            try:
                waiting()[name](x, y)
            except RuntimeError as error:  # there is no value to go on with
                assert "Fake" in type(error).__module__ or "fake" in type(error).__module__  # noqa: PT017
        assert sum(waits.take().values()) >= 1


def test_what_does_not_wait_is_not_found() -> None:
    with fake_gpu():
        x, y = torch.zeros(3, device=GPU), torch.zeros(3)
        with Waits() as waits:
            y.to(GPU, non_blocking=True)
            x.copy_(y, non_blocking=True)
            x[torch.arange(2, device=GPU)] = x[:2] * 2.0
            torch.where(x > 0, x, 1.0).sum()
            torch.full((3,), 2.0, device=GPU).double()
        assert not waits.take()


def test_devices_do_not_mix() -> None:
    with fake_gpu(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(3, device=GPU) + torch.zeros(3)
