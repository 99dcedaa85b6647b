"""What holds on a GPU, tested where there is one: the same draws, the same loss, the same bits again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.config import params
from benchmark.core.randomness import keyed
from benchmark.data.augment import view
from benchmark.execution.cell import run
from benchmark.results.records import Store
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
