"""The optimizers against their papers' updates."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmark.components import registry
from benchmark.training.network import parameter_groups
from tests.helpers import tiny

RATES, DECAY = (0.1, 0.05, 0.2), 0.01


def run(name, decays=(DECAY, 0.0), rates=RATES, **options):
    """Steps of two groups with their weight decays, and the gradients they were given."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    start = [p.detach().double() for p in parameters]
    gradients = [[torch.randn_like(p) for p in parameters] for _ in rates]
    groups = [
        {"params": [parameter], "weight_decay": decay}
        for parameter, decay in zip(parameters, decays, strict=True)
    ]
    optimizer = registry.build("optimizer", name, groups, 7.0, **options)
    for rate, given in zip(rates, gradients, strict=True):
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


DECAYS = [(DECAY, 0.0), (DECAY, DECAY), (0.0, 0.0), (0.0, DECAY)]
"""Of the matrix and the vector: timm adapts what decays, which must make no difference here."""


def assert_close(found, expected):
    torch.testing.assert_close(found.detach().double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("decays", DECAYS)
@pytest.mark.parametrize("adapt", ["weights", "all"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_lars(nesterov, adapt, decays):
    start, gradients, found = run("lars", decays, adapt=adapt, nesterov=nesterov)
    for place, decay in enumerate(decays):
        x, velocity = start[place], torch.zeros_like(start[place])
        for rate, given in zip(RATES, gradients, strict=True):
            length = x.square().sum().sqrt()
            local = 0.001 * length / (given[place].square().sum().sqrt() + decay * length)
            gradient = given[place] + decay * x
            if place == 0 or adapt == "all":
                gradient = local * gradient
            velocity = 0.9 * velocity + gradient
            x = x - rate * (gradient + 0.9 * velocity if nesterov else velocity)
        assert_close(found[place], x)


def test_lars_at_a_constant_rate_is_the_papers():
    """Algorithm 1 has the rate inside the momentum."""
    rates = (0.3,) * 4
    start, gradients, found = run(
        "lars", (0.1, 0.1), rates, adapt="all", momentum=0.8, trust_coefficient=0.02
    )
    for place, (x, parameter) in enumerate(zip(start, found, strict=True)):
        velocity = torch.zeros_like(x)
        for rate, given in zip(rates, gradients, strict=True):
            local = 0.02 * x.norm() / (given[place].norm() + 0.1 * x.norm())
            velocity = 0.8 * velocity + rate * local * (given[place] + 0.1 * x)
            x = x - velocity
        assert_close(parameter, x)


@pytest.mark.parametrize("coefficient", [0.02, 10.0])
def test_clipped_trust_is_larcs(coefficient):
    """The local rate is at most the global one (solo-learn's `clip_lr`, apex's `clip`)."""
    start, gradients, found = run(
        "lars", adapt="weights", trust_coefficient=coefficient, trust_clip=True
    )
    x, velocity, clipped = start[0], torch.zeros_like(start[0]), 0
    for rate, given in zip(RATES, gradients, strict=True):
        local = coefficient * x.norm() / (given[0].norm() + DECAY * x.norm())
        clipped += int(local > rate)
        velocity = 0.9 * velocity + min(local / rate, 1.0) * (given[0] + DECAY * x)
        x = x - rate * velocity
    assert clipped == (len(RATES) if coefficient > 1 else 0)
    assert_close(found[0], x)


@pytest.mark.parametrize("decays", DECAYS)
@pytest.mark.parametrize("adapt", ["weights", "all"])
@pytest.mark.parametrize("given", [{}, {"beta1": 0.8, "beta2": 0.95, "eps": 0.1}])
def test_lamb(given, adapt, decays):
    options = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6} | given
    start, gradients, found = run("lamb", decays, adapt=adapt, **given)
    beta1, beta2, eps = options.values()
    for place, decay in enumerate(decays):
        x = start[place]
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        for step, (rate, each) in enumerate(zip(RATES, gradients, strict=True), start=1):
            first = beta1 * first + (1 - beta1) * each[place]
            second = beta2 * second + (1 - beta2) * each[place] ** 2
            corrected = first / (1 - beta1**step), second / (1 - beta2**step)
            update = corrected[0] / (corrected[1].sqrt() + eps) + decay * x
            adapted = place == 0 or adapt == "all"
            ratio = x.norm() / update.norm() if adapted else 1.0
            x = x - rate * ratio * update
        assert_close(found[place], x)


def test_lamb_without_adaptation_is_adamw():
    """Of vectors alone, under weight decay."""
    found = []
    for name, options in (("lamb", {"adapt": "weights", "eps": 1e-8}), ("adamw", {})):
        betas = {"beta1": 0.9, "beta2": 0.95}
        found.append(run(name, (DECAY, DECAY), **betas, **options)[2][1])
    assert_close(found[0], found[1].detach().double())


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_what_has_no_length_is_not_adapted(name):
    """A scale that starts at zero, and one without a gradient: their ratio is 1."""
    zero, still = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(3))
    group = {"params": [zero, still], "weight_decay": 0.0}
    optimizer = registry.build("optimizer", name, [group], 0.1, adapt="all")
    zero.grad, still.grad = torch.ones(3), torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((3,), -0.1))
    assert torch.equal(still.detach(), torch.ones(3))


@pytest.mark.parametrize("name", ["lars", "lamb"])
@pytest.mark.parametrize("on", ["weights", "all"])
def test_what_is_adapted_does_not_depend_on_what_decays(name, on):
    """Of a network with parameters of 0, 1, 2 and 4 dimensions. Without decay, `on` shows nowhere."""
    found = {}
    for adapt in ("weights", "all"):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(4, 5))
        network.gain = torch.nn.Parameter(torch.tensor(0.5))
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        groups = parameter_groups(network, 0.0, on)
        optimizer = registry.build("optimizer", name, groups, 0.1, adapt=adapt)
        groups = [list(group["params"]) for group in optimizer.param_groups]
        before = {key: p.detach().clone() for key, p in network.named_parameters()}
        optimizer.step()
        assert [list(group["params"]) for group in optimizer.param_groups] == groups
        coefficient = 0.001 if name == "lars" else 1.0
        for key, parameter in network.named_parameters():
            moved = (parameter.detach() - before[key]).norm()
            adapted = torch.isclose(moved, 0.1 * coefficient * before[key].norm(), rtol=1e-4)
            found[adapt, key] = bool(adapted)
    keys = {"gain": 0, "0.weight": 4, "0.bias": 1, "1.weight": 2, "1.bias": 1}
    assert found == {
        (adapt, key): adapt == "all" or dimensions >= 2
        for adapt in ("weights", "all")
        for key, dimensions in keys.items()
    }


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_backbone_is_trained_with_it_as_params_say(name):
    tree = tiny.changed(tiny.raw(), "backbones/resnet/optimizer", name)
    tree["optimizers"][name] = {"adapt": "weights"}
    label = "simclr-resnet-bn-s0"
    cell = tiny.cell(label, tree=tree)
    assert cell.config.recipe.optimizer.as_json() == {"name": name, "adapt": "weights"}
    assert cell.components[f"optimizer {name}"] == 1
    other = tiny.cell(label, tree=tiny.changed(tree, f"optimizers/{name}/adapt", "all"))
    assert other.on("images").fingerprint != cell.on("images").fingerprint


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": False}),
        ("sgd", {"momentum": 0.0, "nesterov": False}),
        ("adamw", {"beta1": 0.9, "beta2": 0.95}),
        ("lars", {"adapt": "all"}),
        ("lars", {"adapt": "weights", "nesterov": True}),
        ("lamb", {"adapt": "all"}),
        ("lamb", {"adapt": "weights"}),
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
        optimizer = registry.build("optimizer", name, [group], 0.1, **options)
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


@pytest.mark.parametrize("name", sorted(registry.catalogue("optimizer")))
def test_every_optimizer_descends_and_resumes(name):
    """On x² it gets nearer to 0. What `state` holds is all that a second one needs to go on."""
    example = registry.facts("optimizer", name).get("example", {})

    def made(start):
        parameter = torch.nn.Parameter(start.clone())
        group = {"params": [parameter], "weight_decay": 0.0}
        return parameter, registry.build("optimizer", name, [group], 0.01, **example)

    def steps(parameter, optimizer):
        for _ in range(5):
            parameter.grad = 2 * parameter.detach()
            optimizer.step()

    start = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    whole, optimizer = made(start)
    steps(whole, optimizer)
    assert (whole.abs() < start.abs()).all()
    resumed, other = made(whole.detach())
    state = copy.deepcopy(optimizer.state_dict()["state"])
    other.load_state_dict(other.state_dict() | {"state": state})
    steps(whole, optimizer)
    steps(resumed, other)
    assert torch.equal(whole, resumed)
