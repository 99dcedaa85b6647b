"""A training step of networks of the size that people use, on images of 224 px."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.core.randomness import Draw
from benchmark.methods.base import Batch
from benchmark.training import network
from tests.helpers import small, tiny

SIDE, BATCH = 224, 8
SCHEMES: dict[str, dict[str, Any]] = {
    "bn": {"norm": "bn"},
    "ln": {"norm": "ln"},
    "gn": {"norm": "gn", "groups": 8},
    "none": {"norm": "none-plain"},
}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("model", ["resnet50", "vit_small_patch16_224"])
def test_a_step_is_finite_and_reaches_every_parameter(model: str, scheme: str) -> None:
    config = small.configuration("simclr", "resnet", "bn", spec=SCHEMES[scheme])
    backbone = {"model": "timm", "architecture": model}
    config = type(config).model_validate(config.as_json() | {"backbone": backbone})
    cell = small.Cell("t", "e", "simclr", model, scheme, 0, "l", config, {})
    method = network.build(cell, tiny.manifest((3, SIDE, SIDE), "abcde", 64)).train()
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(BATCH, 3, SIDE, SIDE, generator=generator) for _ in range(2)]
    outcome = method(Batch(views, torch.arange(BATCH) % 5, Draw(0, 0), 0.0))
    outcome.loss.backward()
    assert bool(outcome.loss.isfinite())
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    torch.optim.SGD(method.parameters(), lr=1e-3).step()
    assert all(bool(parameter.isfinite().all()) for parameter in method.parameters())
