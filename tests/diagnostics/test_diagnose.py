"""The diagnostics of whole cells."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from benchmark import registry
from benchmark.diagnostics.collapse import embedding_std
from benchmark.diagnostics.final import diagnose
from tests.small import SIDE, TRAINED, build, stir


def photos(n: int = 40) -> Tensor:
    return torch.randint(
        256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def standardise(images: Tensor) -> Tensor:
    return images - 0.5


@pytest.mark.parametrize("method", TRAINED)
def test_each_section_is_measured_and_nothing_is_changed(method: str) -> None:
    network = build(method, "resnet", "bn").train()
    stir(network)
    before = copy.deepcopy(network.state_dict())
    found = diagnose(network, photos(), standardise)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    has = "projector" in registry.facts("method", method)["sections"]
    assert set(found) == ({"backbone", "projector"} if has else {"backbone"})
    with torch.no_grad():
        z = network.evaluated.eval()(standardise(photos().float() / 255))
        assert found["backbone"]["width"] == z.shape[1] == network.evaluated.width
        assert found["backbone"]["embedding_std"] == pytest.approx(embedding_std(z), rel=1e-4)


def test_a_collapsed_projector_is_seen_apart_from_its_backbone() -> None:
    network = build("simclr", "resnet", "gn")
    stir(network)
    with torch.no_grad():
        own = [p for name, p in network.named_parameters() if name.startswith("projector.")]
        for parameter in own:
            parameter.zero_()
        own[-1].fill_(1.0)
    found = diagnose(network, photos(), standardise)
    assert found["projector"]["embedding_std"] == pytest.approx(0, abs=1e-6)
    assert found["backbone"]["embedding_std"] > 0.01


def test_embeddings_that_are_not_finite_have_no_value() -> None:
    network = build("supervised", "vit", "ln")
    with torch.no_grad():
        next(network.backbone.parameters()).fill_(float("nan"))
    assert diagnose(network, photos(), standardise)["backbone"]["embedding_std"] is None
