"""Faster steps that give other bits, as fields of the cell: `math` and `compile`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.components.facts import SECTIONS
from benchmark.core.errors import UserError
from benchmark.methods.base import Batch, Method, Outcome
from benchmark.planning.configuration import TrainingConfig

Step = Callable[[Batch], Outcome]
"""Forward and backward pass; the outcome is detached."""

WARM_UP = 3
"""Steps before a graph is recorded: libraries choose their kernels and reserve memory in the first."""


def check(recipe: TrainingConfig, device: torch.device) -> None:
    """Raises UserError if the device cannot do what the recipe asks for."""
    if device.type == "cpu":
        for key, value, allowed in (
            ("math", recipe.math, "deterministic"),
            ("compile", recipe.compile, "none or inductor"),
        ):
            if value in ("fast", "graphs"):
                raise UserError(f"training: {key} is {value}, expected {allowed} on a CPU")
        compilers = [os.environ.get("CXX", "g++"), "clang++"]
        if recipe.compile == "inductor" and not any(map(shutil.which, compilers)):
            raise UserError(
                "training: compile is inductor, which needs a C++ compiler on a CPU; install g++ or "
                "set CXX"
            )


@contextlib.contextmanager
def fast(recipe: TrainingConfig) -> Iterator[None]:
    """In this block CUDA computes as the recipe's `math` says.

    `fast` allows TF32, kernels that add in another order each time, and cuDNN's choice by trial.
    """
    if recipe.math == "deterministic":
        yield
        return
    backends = torch.backends
    before = (
        torch.are_deterministic_algorithms_enabled(),
        backends.cudnn.benchmark,
        backends.cudnn.allow_tf32,
        backends.cuda.matmul.allow_tf32,
    )

    def change(deterministic: bool, trial: bool, convolutions: bool, products: bool) -> None:
        torch.use_deterministic_algorithms(deterministic)
        backends.cudnn.benchmark = trial
        backends.cudnn.allow_tf32 = convolutions
        backends.cuda.matmul.allow_tf32 = products

    change(False, True, True, True)
    try:
        yield
    finally:
        change(*before)


@contextlib.contextmanager
def compiled(method: Method) -> Iterator[None]:
    """In this block the networks of the method's sections and its teacher are compiled by inductor.

    They keep the names of their weights. What does not call them as modules is not compiled: the
    evaluation, and an encoder of masked images.
    """
    parts = [part for name, part in method.named_children() if name in SECTIONS]
    teacher = getattr(method, "teacher", None)
    parts += [teacher.network] if teacher is not None else []
    # AVX2, as all of torch's own kernels have, see `core.determinism`.
    options = {"cpp.simdlen": 256}
    for part in parts:
        part.compile(dynamic=False, options=options)
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None  # there is no public way back


def eager(method: nn.Module, precision: Callable[[], AbstractContextManager[Any]]) -> Step:
    """A step as it is written; `precision` is the context of its forward pass."""

    def step(batch: Batch) -> Outcome:
        with precision():
            outcome = method(batch)
        outcome.loss.backward()
        return outcome._replace(loss=outcome.loss.detach())

    return step


class Unreadable:
    """A value of a step that a graph would freeze: whoever computes with it is refused."""

    def __init__(self, method: Method, name: str) -> None:
        self._refusal = (
            f"training: compile is graphs, expected none or inductor: method {type(method).__name__} "
            f"computes with the {name} of each step, which a CUDA graph would not change"
        )

    def _refused(self, *_: object) -> Any:
        raise UserError(self._refusal)

    __getattr__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = __bool__ = _refused
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refused
    __rtruediv__ = __pow__ = __rpow__ = __neg__ = _refused


def unreadable(method: Method, batch: Batch) -> Batch:
    """The batch without what its step has in Python: progress and generators."""
    return batch._replace(
        progress=Unreadable(method, "progress"),  # type: ignore[arg-type]
        draw=Unreadable(method, "generators"),  # type: ignore[arg-type]
    )


class Graph:
    """A step as one CUDA graph: recorded once, then replayed on the addresses of its first batch.

    The first steps are eager, and refuse a method that a graph would freeze. The optimizer's step, whose
    rate is a number in Python, is not part of it.
    """

    def __init__(self, method: Method, step: Step) -> None:
        self.method, self.step, self.seen = method, step, 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Outcome:
        """Forward and backward pass; the gradients are those of the recorded step's memory."""
        batch = unreadable(self.method, batch)
        self.seen += 1
        if self.seen <= WARM_UP:
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                outcome = self.step(batch)
            current.wait_stream(self.stream)
            return outcome
        if self.graph is None:
            self._record(batch)
        for place, value in zip(self.places, _tensors(batch), strict=True):
            place.copy_(value)
        assert self.graph is not None
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.outcome

    def _record(self, batch: Batch) -> None:
        batch = batch._replace(
            views=[torch.empty_like(view) for view in batch.views],
            labels=torch.empty_like(batch.labels),
            drawn={name: torch.empty_like(value) for name, value in batch.drawn.items()},
        )
        self.places = _tensors(batch)
        self.graph = torch.cuda.CUDAGraph()
        # Gradients get their memory in the graph.
        self.method.zero_grad()
        # Other threads may reserve pinned memory meanwhile.
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.outcome = self.step(batch)
        self.gradients = [(p, p.grad) for p in self.method.parameters() if p.grad is not None]


def _tensors(batch: Batch) -> list[Tensor]:
    return [*batch.views, batch.labels, *batch.drawn.values()]


@contextlib.contextmanager
def accelerated(
    method: Method, recipe: TrainingConfig, device: torch.device
) -> Iterator[Callable[[Step], Step]]:
    """What the recipe asks for, in this block alone: a function that makes a step faster.

    It is called after the first step of the training. Raises UserError if the device cannot do it.
    """
    check(recipe, device)
    with contextlib.ExitStack() as blocks:
        blocks.enter_context(fast(recipe))

        def faster(step: Step) -> Step:
            if recipe.compile == "inductor":
                blocks.enter_context(compiled(method))
            return Graph(method, step) if recipe.compile == "graphs" else step

        yield faster
