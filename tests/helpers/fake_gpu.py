"""A CUDA device without a GPU: tensors with shapes, types and devices, and no values.

An operation on tensors of two devices fails as on a GPU. What needs a value fails, too, since there is
none. Backward passes do not run: `no_backward` gives gradients without one.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.backbones import masking
from benchmark.data import augment
from benchmark.methods.base import Batch

GPU = torch.device("cuda")
PACKAGE = Path(augment.__file__).parents[1]
COPIES = {"_to_copy", "copy_", "_copy_from", "copy"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
WITHOUT_RESULT = {"_fused_sgd_"}
"""Operations in place that tensors without values do not have."""
CACHES = [augment._by_channel, masking._resampling]
"""Constants that are made once. A block of `fake_gpu` has its own."""
SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """In this block tensors can be made on, and moved to, `GPU`."""
    for cache in CACHES:
        cache.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
            # Or autocast finds that there is no GPU.
            patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
            patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
            yield
    finally:
        for cache in CACHES:
            cache.cache_clear()


def on_gpu(batch: Batch) -> Batch:
    """A batch on the fake device."""
    views = [view.to(GPU) for view in batch.views]
    return batch._replace(views=views, labels=batch.labels.to(GPU))


def no_backward(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> None:
    """Backward passes of a loss only give every trained parameter of `network` a gradient."""

    def backward(loss: Tensor) -> None:
        assert loss.requires_grad
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait until the device has done all that was asked of it before.

    A value or a shape that is read from the device, and copies between the two that are not asked to be
    non-blocking, by operation, file of the package and function.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: collections.Counter[str] = collections.Counter()

    def take(self) -> dict[str, int]:
        """What was found since the last call."""
        found, self.found = self.found, collections.Counter()
        return dict(found)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [arg for arg in _flat(args) if isinstance(arg, Tensor)]
        there = [tensor for tensor in tensors if tensor.device.type != "cpu"]
        waits = bool(there) and (
            name == "_local_scalar_dense"
            or name in SIZED_BY_VALUES
            or (name in INDEXING and any(map(_waits_as_index, tensors[1:])))
        )
        if name in COPIES:
            to = kwargs.get("device")
            kinds = {tensor.device.type for tensor in tensors} | ({to.type} if to else set())
            blocking = not (
                kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
            )
            waits = len(kinds) > 1 and blocking
        if waits:
            self.found[f"{name} {_caller()}"] += 1
        return None if name in WITHOUT_RESULT else func(*args, **kwargs)


def _waits_as_index(index: Tensor) -> bool:
    """Whether it has to be counted, or copied to the device. An index is not a device's scalar."""
    return index.dtype in (torch.bool, torch.uint8) or index.device.type == "cpu"


def _flat(args: Any) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, list | tuple):
            yield from _flat(arg)
        else:
            yield arg


def _caller() -> str:
    """The innermost function of the package that is running."""
    frame: Any = sys._getframe(1)
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            return f"{path.relative_to(PACKAGE)} {frame.f_code.co_qualname}"
        frame = frame.f_back
    return "elsewhere"
