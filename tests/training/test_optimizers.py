"""The optimizers against their papers' updates."""

from __future__ import annotations

import pytest
import torch

from benchmark.components import registry

RATES, DECAY = (0.1, 0.05, 0.2), 0.01


def run(name, **options):
    """Three steps of two groups, with and without weight decay, and the gradients they were given."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    start = [p.detach().double() for p in parameters]
    gradients = [[torch.randn_like(p) for p in parameters] for _ in RATES]
    groups = [
        {"params": parameters[:1], "weight_decay": DECAY},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    optimizer = registry.load("optimizer", name).build(groups, 7.0, **options)
    for rate, given in zip(RATES, gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(parameters, given, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return start, [[g.double() for g in given] for given in gradients], parameters


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(nesterov):
    start, gradients, found = run("sgd", momentum=0.9, nesterov=nesterov)
    for place, decay in enumerate((DECAY, 0.0)):
        x, velocity = start[place], torch.zeros_like(start[place])
        for rate, given in zip(RATES, gradients, strict=True):
            gradient = given[place] + decay * x
            velocity = 0.9 * velocity + gradient
            x = x - rate * (gradient + 0.9 * velocity if nesterov else velocity)
        torch.testing.assert_close(found[place].detach().double(), x, atol=1e-6, rtol=1e-5)


def test_adamw_decays_apart_from_the_gradient():
    start, gradients, found = run("adamw", beta1=0.9, beta2=0.95)
    for place, decay in enumerate((DECAY, 0.0)):
        x = start[place]
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for step, (rate, given) in enumerate(zip(RATES, gradients, strict=True), start=1):
            first = 0.9 * first + 0.1 * given[place]
            second = 0.95 * second + 0.05 * given[place] ** 2
            x = x - rate * decay * x
            x = x - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
        torch.testing.assert_close(found[place].detach().double(), x, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": False}),
        ("sgd", {"momentum": 0.0, "nesterov": False}),
        ("adamw", {"beta1": 0.9, "beta2": 0.95}),
    ],
)
def test_parameter_frozen_at_first_starts_when_its_gradient_comes(name, options):
    """Until then it does not even decay; from then on it moves as one that has just begun."""
    found = []
    for frozen in (2, 0):
        torch.manual_seed(0)
        late, other = torch.nn.Parameter(torch.randn(4)), torch.nn.Parameter(torch.randn(3))
        start = late.detach().clone()
        group = {"params": [other, late], "weight_decay": 0.1}
        optimizer = registry.load("optimizer", name).build([group], 0.1, **options)
        for step in range(frozen + 3):
            optimizer.zero_grad()
            other.grad = torch.ones(3)
            if step >= frozen:
                assert step > frozen or torch.equal(late, start)
                late.grad = torch.arange(4.0) - step + frozen
            optimizer.step()
        assert not torch.equal(late, start)
        found.append(late.detach())
    assert torch.equal(*found)
