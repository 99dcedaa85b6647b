"""The processes that train one cell together, each on a device of its own (torch.distributed).

Of a step's N images each of W processes has n = N / W, which follow one another in the batch. What they
compute is what one process would compute of the whole batch, up to the rounding of sums: draws are made
for all images, norms and losses see the samples that they would see on one device.

Every process takes the gradient of its own loss; the gradient of a step is the mean over the processes.
A loss of the whole batch is the same number on each of them, and one that is a mean over images has the
mean over the processes as its value, so both kinds are right without a factor.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = datetime.timedelta(hours=12)
"""How long a process waits for the others: rank 0 may evaluate for hours. Whoever starts the processes
ends them all when one dies."""


@dataclass
class _State:
    host: Any = None
    """The group for values on the CPU, None for a process by itself."""
    alone: int = 0
    """How many blocks of `alone` are open."""
    parts: int = 1


_STATE = _State()


def join(rank: int, size: int, rendezvous: str, device: torch.device) -> None:
    """Makes this process one of `size` that train together; it returns when all are there.

    `rendezvous` is where they meet: the `file://` address of a file that does not exist yet, or `env://`
    under torchrun.
    """
    kind = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        kind, init_method=rendezvous, rank=rank, world_size=size, timeout=PATIENCE
    )
    _STATE.host = dist.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    """Ends what `join` began."""
    _STATE.host = None
    dist.destroy_process_group()


def size() -> int:
    """The number of processes that share the work; 1 for a process by itself."""
    return 1 if _STATE.host is None or _STATE.alone else dist.get_world_size()


def rank() -> int:
    """This process's number; 0 for a process by itself, and the one that writes files."""
    return 0 if _STATE.host is None else dist.get_rank()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In this block every process does the whole work, as if it were by itself."""
    _STATE.alone += 1
    try:
        yield
    finally:
        _STATE.alone -= 1


@contextlib.contextmanager
def parts(count: int) -> Iterator[None]:
    """In this block a batch is `count` batches one after another, each divided among the processes.

    For views that are one forward pass: the images of a process then do not follow one another.
    """
    before, _STATE.parts = _STATE.parts, count
    try:
        yield
    finally:
        _STATE.parts = before


def current_parts() -> int:
    """How many batches follow one another, see `parts`."""
    return _STATE.parts


def rows(own: int) -> Tensor:
    """The numbers (own,) of this process's rows among those of all processes, which have as many."""
    return rows_of(rank() if size() > 1 else 0, own, size(), _STATE.parts)


@functools.lru_cache(maxsize=64)
def rows_of(rank: int, own: int, size: int, parts: int) -> Tensor:
    """The same for any process."""
    if own % parts:
        raise ValueError(f"{own} rows are not {parts} parts of one size")
    each = own // parts
    starts = torch.arange(parts) * each * size + rank * each
    return (starts[:, None] + torch.arange(each)).flatten()


def gather(x: Tensor) -> Tensor:
    """The rows (W · n, …) of all processes in their order, from those of each (n, …); has a gradient."""
    if size() == 1:
        return x
    return _Gather.apply(x, size(), _STATE.parts) if x.requires_grad else _gathered(x)


class Whole(Tensor):
    """A tensor with the rows of all processes, or computed from one: torch hands the class on.

    So whatever a method does with gathered embeddings, a norm of the batch can tell them from a
    process's own rows.
    """


def whole(x: Tensor) -> Tensor:
    """`gather`, and says so; see `Whole`."""
    return gather(x).as_subclass(Whole) if size() > 1 else x


def own(x: Tensor) -> Tensor:
    """This process's rows (n, …) of those of all processes (W · n, …)."""
    count = size()
    if count == 1:
        return x
    each = len(x) // (count * _STATE.parts)
    by_rank = x.unflatten(0, (_STATE.parts, count, each))
    return by_rank[:, rank()].flatten(0, 1)


def mean(x: Tensor) -> Tensor:
    """The mean over the processes, of any shape; has a gradient."""
    if size() == 1:
        return x
    return _Mean.apply(x, size()) if x.requires_grad else _mean(x)


def each(x: Tensor) -> Tensor:
    """The values (W, …) of every process, without a gradient."""
    return _collected(x.detach())


def agreed(value: int) -> int:
    """Rank 0's whole number."""
    if size() == 1:
        return value
    box = torch.tensor(value)
    dist.broadcast(box, 0, group=_STATE.host)
    return int(box)


def total(value: float | None) -> float | None:
    """The sum of a number over the processes, None if one has none."""
    if size() == 1:
        return value
    box: list[float | None] = [None] * size()
    dist.all_gather_object(box, value, group=_STATE.host)
    known = [one for one in box if one is not None]
    return sum(known) if len(known) == len(box) else None


def same(value: Tensor) -> bool:
    """Whether a tensor is equal to the bit on all processes."""
    if size() == 1:
        return True
    # Bytes, since not-a-number differs from itself, and not every type can be sent.
    found = _collected(value.detach().contiguous().reshape(-1).view(torch.uint8))
    return bool((found == found[0]).all())


def reduce_means(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors by their means over the processes, in one operation for each type.

    torch's DistributedDataParallel does this beside the backward pass. It needs to know at the start
    which weights will have a gradient (prototypes are frozen for a while), and a resumed run would add
    in another order than one that was not interrupted.
    """
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
        chosen = [tensor.detach() for tensor in tensors if tensor.dtype == kind]
        flat = torch.cat([tensor.reshape(-1) for tensor in chosen])
        dist.all_reduce(flat)
        flat /= size()
        for tensor, found in zip(chosen, flat.split([t.numel() for t in chosen]), strict=True):
            tensor.copy_(found.view(tensor.shape))


def _collected(x: Tensor) -> Tensor:
    found = x.new_empty((size(), *x.shape))
    dist.all_gather_into_tensor(found, x.contiguous()[None])
    return found


def _gathered(x: Tensor) -> Tensor:
    by_rank = _collected(x.unflatten(0, (_STATE.parts, -1)))
    return by_rank.transpose(0, 1).flatten(0, 2)


def _mean(x: Tensor) -> Tensor:
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x / size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, parts: int) -> Tensor:
        ctx.size, ctx.parts = size, parts
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        by_rank = grad.unflatten(0, (ctx.parts, ctx.size, -1)).transpose(0, 1).contiguous()
        found = torch.empty_like(by_rank[:1])
        dist.reduce_scatter_tensor(found, by_rank)
        return found[0].flatten(0, 1), None, None


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        ctx.size = size
        return _mean(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad / ctx.size, None
