"""What holds on a GPU, tested where there is one: the same draws, the same loss, the same bits again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.config import params
from benchmark.core.randomness import keyed
from benchmark.core.transfer import send
from benchmark.data.augment import view
from benchmark.execution.cell import run
from benchmark.results.records import Store
from benchmark.training.acceleration import accelerated, eager
from benchmark.training.loop import Interrupted
from tests.helpers import small, tiny

if not torch.cuda.is_available():
    # As a whole: hundreds of tests that are skipped one by one take seconds.
    pytest.skip("needs a CUDA GPU", allow_module_level=True)
GPU = torch.device("cuda")


@pytest.mark.parametrize("size", [0, 14])
def test_views_do_not_depend_on_the_device(size: int):
    spec = params.read(tiny.PROJECT / "tracks/cifar10/params.yaml").views["strong"]
    spec = spec | {"blur": 0.5, "solarize": 0.2, "size": size}
    pixels = torch.rand(16, 3, 32, 32, generator=keyed(0, "pixels"))
    here = view(pixels, spec, keyed(0, "view"))
    there = view(pixels.to(GPU), spec, keyed(0, "view"))
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", small.TRAINED)
@pytest.mark.parametrize("backbone", small.BACKBONES)
@pytest.mark.parametrize("norm", small.NORMS)
def test_a_step_has_the_loss_and_gradient_of_the_cpu(method: str, backbone: str, norm: str):
    found = []
    for device in (torch.device("cpu"), GPU):
        network = small.build(method, backbone, norm).to(device)
        batch = small.batch(method)
        views = [v.to(device) for v in batch.views]
        loss = network(batch._replace(views=views, labels=batch.labels.to(device))).loss
        loss.backward()
        grads = [p.grad for p in network.parameters() if p.grad is not None]
        found.append(torch.stack([loss.detach(), torch.nn.utils.get_total_norm(grads)]).cpu())
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-3)


def losses(method: str, **recipe: Any) -> Tensor:
    """Of eight steps, with an optimizer and a teacher that move."""
    network = small.build(method, "resnet", "bn").to(GPU).train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.01)
    found = []
    with accelerated(network, small.recipe(**recipe), GPU) as faster:
        step = faster(eager(network, contextlib.nullcontext))
        for number in range(8):
            given = small.batch(method, number)
            drawn = send({"": network.draws(given.draw, given.size)}, GPU)[""]
            views = [v.to(GPU) for v in given.views]
            optimizer.zero_grad()
            outcome = step(given._replace(views=views, labels=given.labels.to(GPU), drawn=drawn))
            found.append(outcome.loss.clone())
            optimizer.step()
            network.after_step(number / 8)
    return torch.stack(found).cpu()


@pytest.mark.parametrize("method", sorted(set(small.TRAINED) - {"dino", "swav"}))
def test_graphs_take_the_steps_of_eager_mode(method: str):
    """Three steps are eager, five are replayed."""
    torch.testing.assert_close(
        losses(method, compile="graphs"), losses(method), atol=1e-4, rtol=1e-4
    )


def test_fast_arithmetic_is_near():
    torch.testing.assert_close(losses("simclr", math="fast"), losses("simclr"), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("method", small.TRAINED)
def test_a_step_does_not_wait(method: str):
    """The driver's own check of what the fake device counts."""
    network = small.build(method, "vit", "ln").to(GPU).train()
    given = small.batch(method)
    drawn = send({"": network.draws(given.draw, given.size)}, GPU)[""]
    views = [v.to(GPU) for v in given.views]
    given = given._replace(views=views, labels=given.labels.to(GPU), drawn=drawn)
    network(given).loss.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        network(given).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_interrupted_cell_goes_on_to_the_same_record(tmp_path: Path):
    root = tiny.project(tmp_path)
    task = tiny.cell("simclr-resnet-bn-s0").on(tiny.dataset(root))
    whole = run(task, root / "data/mini", Store(tmp_path / "whole"), GPU, lambda *_: True, 5)
    parts = Store(tmp_path / "parts")
    with pytest.raises(Interrupted):
        run(task, root / "data/mini", parts, GPU, lambda *_: False, 5)
    again = run(task, root / "data/mini", parts, GPU, lambda *_: True, 5)
    assert parts.run_log(again.fingerprint).resumed_at_step
    assert again == whole
    assert again.environment["device"] == torch.cuda.get_device_name()
