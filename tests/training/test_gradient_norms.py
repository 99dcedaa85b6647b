"""No combination of method and norm starts with gradients that no learning rate escapes.

A norm at positions without variance has a Jacobian of up to 1/√ε. Residual branches that start at zero
hide it at the first step, so steps 2 to 10 are looked at, with biases off their initial zero, and the
images have flat backgrounds, where neighbouring positions are all alike.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmark.backbones.base import Mask
from benchmark.backbones.resnet import TimmResNet
from benchmark.methods.base import Batch, Method
from tests.small import BACKBONES, BATCH, NORMS, SIDE, TRAINED, batch, build, legal

STEPS = 10
RATES = {"resnet": 0.003, "vit": 1e-3}
BIAS = 1e-3
"""How far biases are off zero: a little, so that flat positions are nearly and not exactly without variance."""

BOUND = 60.0
"""Of the largest gradient norm at steps 2 to 10, in that of the same method under BN."""

CASES = [(m, b, n) for m in TRAINED for b in BACKBONES for n in NORMS if legal(m, b, n)]


def with_flat_background(views: list[Tensor]) -> list[Tensor]:
    """Noise in the middle of each image, one value around it."""
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] = True
    return [torch.where(inside, view, -0.8) for view in views]


def largest(network: Method, method: str, backbone: str) -> float:
    """The largest gradient norm of steps 2 to 10."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias") and parameter.requires_grad:
                parameter.add_(BIAS * torch.randn(parameter.shape, generator=generator))
    network.start()
    trained = [p for p in network.parameters() if p.requires_grad]
    make: Callable[..., torch.optim.Optimizer] = (
        torch.optim.SGD if backbone == "resnet" else torch.optim.AdamW
    )
    optimizer = make(trained, lr=RATES[backbone])
    norms = []
    for step in range(STEPS):
        given = batch(method, step, 2 * BATCH)
        views = with_flat_background(list(given.views))
        optimizer.zero_grad()
        network(Batch(views, given.labels, given.draw, step / STEPS)).loss.backward()
        found = [p.grad for p in trained if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(found)))
        optimizer.step()
        network.after_step(step / STEPS)
    return max(norms[1:])


@pytest.mark.parametrize(("method", "backbone", "norm"), CASES)
def test_gradients_stay_bounded(method: str, backbone: str, norm: str) -> None:
    training = {"batch_size": 2 * BATCH}
    assert growth(build(method, backbone, norm, training=training), method, backbone) < BOUND


def test_what_the_bound_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in hidden patches under LN by position, as the first version had them, go beyond it."""

    def with_zeros(self: TimmResNet, images: Tensor, mask: Mask) -> Tensor:
        rows, columns = images.shape[2] // mask.patch, images.shape[3] // mask.patch
        grid = mask.hidden.view(len(images), 1, rows, columns)
        hidden = grid.repeat_interleave(mask.patch, 2).repeat_interleave(mask.patch, 3)
        encoded: Tensor = self.net.forward_features(images.masked_fill(hidden, 0.0))
        return encoded

    monkeypatch.setattr(TimmResNet, "encode_masked", with_zeros)
    network = build("mae", "resnet", "ln-position", training={"batch_size": 2 * BATCH})
    for block in (stage[0] for stage in (network.backbone.net.layer1, network.backbone.net.layer2)):
        torch.nn.init.zeros_(block.bn2.weight)
    assert growth(network, "mae", "resnet") > BOUND
