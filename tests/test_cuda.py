"""What holds on a GPU, tested where there is one: the same draws, the same loss, the same bits again.

All of it takes at most four minutes on a GPU of the H100's class:
`uv run pytest -n 4 --dist load tests/test_cuda.py`.
"""

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
from benchmark.data.manifest import Storage
from benchmark.evaluation.knn import knn_correct
from benchmark.evaluation.probe import Probe, linear_probe
from benchmark.execution import local
from benchmark.execution.cell import run
from benchmark.execution.missing import train_missing
from benchmark.planning.cell import tasks
from benchmark.results.records import Record, Store
from benchmark.training.acceleration import accelerated, eager
from benchmark.training.loop import Interrupted
from tests.helpers import small, tiny

if not torch.cuda.is_available():
    # As a whole: hundreds of tests that are skipped one by one take seconds.
    pytest.skip("needs a CUDA GPU", allow_module_level=True)
CPU, GPU = torch.device("cpu"), torch.device("cuda")
STORAGES: tuple[Storage, ...] = ("device", "host", "disk")


@pytest.mark.parametrize("size", [0, 14])
def test_views_do_not_depend_on_the_device(size: int):
    spec = params.read(tiny.PROJECT / "tracks/cifar10/params.yaml").views["strong"]
    spec = spec | {"blur": 0.5, "solarize": 0.2, "size": size}
    pixels = torch.rand(16, 3, 32, 32, generator=keyed(0, "pixels"))
    here = view(pixels, spec, keyed(0, "view"))
    there = view(pixels.to(GPU), spec, keyed(0, "view"))
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)


def test_a_crop_of_224_pixels_rounds_bytes_as_on_the_cpu():
    """At most to the next byte, where the sums of a resampling are ordered in another way."""
    spec = params.read(tiny.PROJECT / "tracks/cifar10/params.yaml").views["weak"] | {"size": 224}
    pixels = torch.randint(256, (8, 3, 256, 256), dtype=torch.uint8, generator=keyed(0, "pixels"))
    here = view(pixels, spec, keyed(0, "view"))
    there = view(pixels.to(GPU), spec, keyed(0, "view")).cpu()
    assert there.shape == (8, 3, 224, 224)
    apart = (there - here).abs() * 255
    assert apart.max() < 1.01
    assert (apart > 0.5).float().mean() < 0.01


def test_views_of_224_pixels_do_not_depend_on_the_device():
    spec = params.read(tiny.PROJECT / "tracks/cifar10/params.yaml").views["strong"]
    spec = spec | {"blur": 0.5, "solarize": 0.2, "size": 224}
    pixels = torch.rand(8, 3, 256, 256, generator=keyed(0, "pixels"))
    here = view(pixels, spec, keyed(0, "view"))
    there = view(pixels.to(GPU), spec, keyed(0, "view")).cpu()
    # A pixel at the threshold of solarization may be on either side of it.
    assert ((there - here).abs() > 1e-4).float().mean() < 1e-4


def step(method: str, backbone: str, norm: str, device: torch.device, bfloat16: bool = False):
    """The loss of a step, and the norm of its gradient."""
    network = small.build(method, backbone, norm).to(device)
    batch = small.batch(method)
    views = [v.to(device) for v in batch.views]
    given = batch._replace(views=views, labels=batch.labels.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        loss = network(given).loss
    loss.backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 for grad in grads)
    return float(loss.detach()), float(torch.nn.utils.get_total_norm(grads))


@pytest.mark.parametrize(("method", "backbone", "norm"), small.combinations())
def test_a_step_has_the_loss_and_gradient_of_the_cpu(method: str, backbone: str, norm: str):
    here, there = (step(method, backbone, norm, device) for device in (CPU, GPU))
    assert there == pytest.approx(here, abs=1e-3, rel=1e-3)


@pytest.mark.parametrize("method", small.TRAINED)
@pytest.mark.parametrize(("backbone", "norm"), [("resnet", "bn"), ("vit", "ln")])
def test_a_step_in_bfloat16_is_near_that_in_float32(method: str, backbone: str, norm: str):
    """Its eight bits: a few percent of the loss, more of the gradient of a small batch under BN."""
    loss, gradient = step(method, backbone, norm, CPU)
    near, nearly = step(method, backbone, norm, GPU, bfloat16=True)
    assert near == pytest.approx(loss, rel=0.05, abs=0.05)
    assert nearly == pytest.approx(gradient, rel=0.2)
    assert near != loss


def clusters(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (n, 16) of ten classes that overlap, and the labels."""
    labels = torch.arange(n) % 10
    noise = torch.randn(n, 16, generator=keyed(seed, "noise"))
    return torch.randn(10, 16, generator=keyed(0, "centres"))[labels] + noise, labels


@pytest.mark.parametrize("solver", ["lbfgs", "scikit-learn"])
def test_the_probe_scores_as_scikit_learn_does_on_the_cpu(solver: str):
    def probe(device: torch.device, solver: str) -> Probe:
        sets = [clusters(n, seed) for seed, n in enumerate((2000, 500, 500))]
        train, validation, scored = ((x.to(device), y.to(device)) for x, y in sets)
        return linear_probe(train, validation, scored, (0.01, 1.0), solver)

    here, there = probe(CPU, "scikit-learn"), probe(GPU, solver)
    assert there.accuracy == pytest.approx(here.accuracy, abs=0.01)
    assert there == probe(GPU, solver)


def test_neighbours_vote_as_on_the_cpu():
    bank, queries = clusters(3000, 0), clusters(1000, 1)
    here = knn_correct(bank, queries, (5, 20), 0.07)
    there = knn_correct(
        (bank[0].to(GPU), bank[1].to(GPU)), (queries[0].to(GPU), queries[1].to(GPU)), (5, 20), 0.07
    ).cpu()
    # Neighbours at almost the same distance may change places at the k-th.
    assert (here != there).float().mean() < 0.005


def trained(root: Path, folder: Path, label: str, storage: Storage = "auto") -> Record:
    """The record of a cell on the GPU, in a store of its own."""
    task = tiny.cell(label).on(tiny.dataset(root))
    return run(task, root / "data/mini", Store(folder), GPU, lambda *_: True, 5, storage=storage)


@pytest.mark.parametrize("label", ["simclr-resnet-bn-s0", "simclr-resnet-none-plain-s0"])
def test_a_cell_has_the_same_record_again_wherever_its_images_are(tmp_path: Path, label: str):
    root = tiny.project(tmp_path)
    first = trained(root, tmp_path / "first", label)
    assert first.status == "done"
    assert first.environment["device"] == torch.cuda.get_device_name()
    for storage in STORAGES:
        assert trained(root, tmp_path / storage, label, storage) == first


def test_two_processes_on_one_gpu_make_the_records_of_one(tmp_path: Path):
    root = tiny.project(tmp_path)
    labels = ("simclr-resnet-bn-s0", "simclr-resnet-none-plain-s0", "raw-pixels-pixels-none-s0")
    wanted = tasks(map(tiny.cell, labels), tiny.dataset(root))
    found = []
    for jobs in (1, 2):
        store = Store(tmp_path / f"{jobs}")
        way = local.workers(jobs, per_gpu=jobs)
        found.append(train_missing(wanted, store, root / "data/mini", way, "cuda"))
    assert found[0].trained == found[1].trained == len(wanted)
    assert found[0].records == found[1].records


def losses(method: str, **recipe: Any) -> Tensor:
    """Of eight steps, with an optimizer and a teacher that move."""
    network = small.build(method, "resnet", "bn").to(GPU).train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.01)
    found = []
    with accelerated(network, small.recipe(**recipe), GPU) as faster:
        one = faster(eager(network, contextlib.nullcontext))
        for number in range(8):
            given = small.batch(method, number)
            drawn = send({"": network.draws(given.draw, given.size)}, GPU)[""]
            views = [v.to(GPU) for v in given.views]
            optimizer.zero_grad()
            outcome = one(given._replace(views=views, labels=given.labels.to(GPU), drawn=drawn))
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
