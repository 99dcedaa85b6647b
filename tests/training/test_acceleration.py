"""Fast arithmetic, compiled networks and CUDA graphs: what they refuse and leave behind."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import Any

import pytest
import torch

from benchmark.core.errors import UserError
from benchmark.planning.sizes import check
from benchmark.training import acceleration
from benchmark.training.acceleration import accelerated, eager, fast, unreadable
from tests.helpers import small, tiny

CPU = torch.device("cpu")
READS_PROGRESS = {"dino", "swav"}
"""Their prototypes are frozen for a share of the training."""


def set_in(tree: dict[str, Any], **training: Any) -> dict[str, Any]:
    """The parameters with values of `training`."""
    return tree | {"training": tree["training"] | training}


def test_the_keys_are_in_no_cell_at_their_defaults() -> None:
    label = "simclr-resnet-bn-s0"
    plain = tiny.cell(label)
    assert plain.config.training is not None
    assert not {"math", "compile"} & plain.config.as_json()["training"].keys()
    for key, value, default in (
        ("math", "fast", "deterministic"),
        ("compile", "inductor", "none"),
    ):
        tree = set_in(tiny.raw(), **{key: value})
        changed = tiny.cell(label, tree=tree)
        assert changed.config.as_json()["training"][key] == value
        assert changed.config != plain.config
        tree = set_in(tiny.raw(), **{key: default})
        assert tiny.cell(label, tree=tree).config == plain.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"math": "fast"}, "training: math is fast, expected deterministic on a CPU"),
        ({"compile": "graphs"}, "training: compile is graphs, expected none or inductor on a CPU"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    network = small.build("simclr", "resnet", "bn")
    with (
        pytest.raises(UserError, match=f"^{re.escape(message)}$"),
        accelerated(network, small.recipe(**changes), CPU),
    ):
        pass


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        UserError, match="needs a C\\+\\+ compiler on a CPU; install g\\+\\+ or set"
    ):
        acceleration.check(small.recipe(compile="inductor"), CPU)


def test_fast_arithmetic_ends_with_the_training() -> None:
    def found() -> list[bool]:
        return [
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ]

    before = found()
    assert before == [True, False, False, False]
    with contextlib.suppress(KeyError), fast(small.recipe(math="fast")):
        assert found() == [False, True, True, True]
        raise KeyError
    assert found() == before
    with fast(small.recipe()):
        assert found() == before


@pytest.mark.parametrize("method", small.TRAINED)
def test_a_graph_refuses_what_it_would_freeze(method: str) -> None:
    network = small.build(method, "resnet", "bn").train()
    given = small.batch(method)
    given = given._replace(drawn=network.draws(given.draw, given.size))
    step = eager(network, contextlib.nullcontext)
    if method in READS_PROGRESS:
        with pytest.raises(
            UserError, match=r"compile is graphs, .* with the progress of each step"
        ):
            step(unreadable(network, given))
        return
    found = step(unreadable(network, given))
    again = small.build(method, "resnet", "bn").train()
    assert torch.equal(found.loss, again(small.batch(method)).loss)


def test_a_graph_refuses_draws_that_are_not_announced() -> None:
    network = small.build("rotation", "resnet", "bn").train()
    with pytest.raises(
        UserError, match="method Rotation computes with the generators of each step"
    ):
        network(unreadable(network, small.batch("rotation")))


def test_a_graph_refuses_a_teacher_whose_statistics_follow_the_progress() -> None:
    training = {"teacher": {"statistics": "momentum", "shuffle": False}}
    network = small.build("byol", "resnet", "bn", training=training).train()
    with pytest.raises(UserError, match="method BYOL computes with the progress"):
        network(unreadable(network, small.batch("byol")))


def test_graphs_take_whole_steps() -> None:
    tree = set_in(tiny.raw(), compile="graphs", micro_batches=2)
    config = tiny.cell("supervised-resnet-none-plain-s0", tree=tree).config
    with pytest.raises(UserError, match="micro_batches is 2, expected 1 with compile graphs"):
        check(config, 160)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own imports
@pytest.mark.skipif(sys.platform != "linux", reason="needs g++")
@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_compiled_networks_take_the_same_steps(method: str) -> None:
    """Up to rounding, with the same names, and eager afterwards. Compiling takes minutes."""
    losses = []
    for how in ("none", "inductor"):
        network = small.build(method, "resnet", "bn").train()
        names = list(network.state_dict())
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.001)
        found = []
        with accelerated(network, small.recipe(compile=how), CPU) as faster:
            step = faster(eager(network, contextlib.nullcontext))
            for number in range(3):
                optimizer.zero_grad()
                found.append(step(small.batch(method, number)).loss)
                optimizer.step()
                network.after_step(number / 3)
            called = network.backbone._compiled_call_impl
        assert (called is not None) == (how == "inductor")
        assert network.backbone._compiled_call_impl is None
        assert list(network.state_dict()) == names
        losses.append(torch.stack(found))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    assert not torch.equal(losses[1], losses[0])  # it is another program
