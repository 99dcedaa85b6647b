"""Norms of a batch that is divided among processes: the statistics are those of the whole batch.

torch's SyncBatchNorm refuses tensors on the CPU and knows no groups of samples.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.core import ranks
from benchmark.norms.bases import widened
from benchmark.norms.factory import ChannelsLast, OverTokens


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of x (N, C, …) over the samples of all processes and the positions.

    The variance is without Bessel's correction. Both have gradients.
    """
    dims = [0, *range(2, x.ndim)]
    if ranks.size() == 1:
        variance, mean = torch.var_mean(x, dims, correction=0)
        return mean, variance
    mean = ranks.mean(x.mean(dims))
    centred = x - mean.view(1, -1, *[1] * (x.ndim - 2))
    return mean, ranks.mean(centred.square().mean(dims))


def normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    groups: int = 1,
    strided: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of x (n, C, …) over groups of samples of all processes; also their statistics (G, C).

    These are mean and variance without Bessel's correction. Sample i of N is in group ⌊i · groups / N⌋,
    or `strided` in group i mod groups.
    """
    return _Normalise.apply(x, weight, bias, eps, groups, strided)


class _Normalise(torch.autograd.Function):
    """The gradient is that of batch norm (1502.03167, §3) with its two sums over all processes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        groups: int,
        strided: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide, inner = widened(x), list(range(2, x.ndim))
        group, counts = _groups(len(x), groups, strided)
        group, counts = group.to(x.device), counts.to(wide)
        if groups == 1:
            # On a CPU a hundred times as fast as var_mean over these dimensions.
            found = torch.batch_norm_update_stats(wide, None, None, 0.0)
            mean, variance = (one[None] for one in found)
        else:
            local = counts[ranks.rank(), :, None].clamp(min=1)
            mean = _sums(wide.mean(inner) if inner else wide, group, groups) / local
            apart = (wide - _spread(mean[group], x)).square()
            variance = _sums(apart.mean(inner) if inner else apart, group, groups) / local
        means, variances = ranks.each(torch.stack([mean, variance])).unbind(1)
        shares = (counts / counts.sum(0))[:, :, None]
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, variance, group)
        ctx.eps, ctx.values = eps, ranks.size() * x.numel() // x.shape[1] // groups
        ctx.mark_non_differentiable(mean, variance)
        if groups == 1:
            y = F.batch_norm(x, mean[0], variance[0], weight, bias, False, 0, eps)
            return y, mean, variance
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        y = torch.addcmul(_spread(shift[group], x), wide, _spread(scale[group], x))
        return y.to(x.dtype), mean, variance

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, *unused: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None]:
        x, weight, mean, variance, group = ctx.saved_tensors
        wide, grad_wide = widened(x), widened(grad)
        inner, groups = list(range(2, x.ndim)), len(mean)
        inverse = (variance + ctx.eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        if groups == 1:
            # The kernel of evaluation: the gradients by scale and shift are this process's sums.
            ones = mean.new_ones(mean.shape[1]) if weight is None else weight
            found, along, about = torch.ops.aten.native_batch_norm_backward(
                grad, x, ones, mean[0], variance[0], None, None, False, ctx.eps, [True] * 3
            )
            sums = torch.stack([along, about])[:, None]
        else:
            hat = (wide - _spread(mean[group], x)) * _spread(inverse[group], x)
            both = torch.stack([grad_wide * hat, grad_wide])
            of_rows = both.sum([axis + 1 for axis in inner]) if inner else both
            sums = torch.stack([_sums(rows, group, groups) for rows in of_rows])
            found = grad_wide * _spread(scale[group], x)
        own = (None, None) if weight is None else sums.sum(1).to(weight).unbind()
        along, about = ranks.mean(sums.detach()) * (ranks.size() / ctx.values)
        # The gradient of mean and variance: a line in x for each channel of a group.
        slope = -scale * inverse * along
        rise = -scale * about - slope * mean
        found = (
            widened(found).addcmul_(wide, _spread(slope[group], x)).add_(_spread(rise[group], x))
        )
        return found.to(x.dtype), *own, None, None, None


@functools.lru_cache(maxsize=64)
def _grouped(own: int, groups: int, strided: bool, size: int, parts: int) -> tuple[Tensor, Tensor]:
    """The group of each process's rows (W, n), and how many of them each group has (W, G)."""
    place = torch.stack([ranks.rows_of(rank, own, size, parts) for rank in range(size)])
    group = place % groups if strided else place * groups // (own * size)
    return group, torch.stack([row.bincount(minlength=groups) for row in group])


def own_groups(own: int, groups: int, strided: bool) -> int:
    """How many of the groups are this process's if no two processes share one, otherwise 0."""
    if ranks.size() == 1:
        return groups
    counts = _groups(own, groups, strided)[1]
    whole = bool((counts.bool().sum(0) == 1).all())
    return int(counts[ranks.rank()].bool().sum()) if whole else 0


def _groups(own: int, groups: int, strided: bool) -> tuple[Tensor, Tensor]:
    """The group of each of this process's rows (n,), and how many each process has of it (W, G)."""
    group, counts = _grouped(own, groups, strided, ranks.size(), ranks.current_parts())
    return group[ranks.rank()], counts


def _sums(rows: Tensor, group: Tensor, groups: int) -> Tensor:
    """The sums (G, C) of rows (n, C) by their group (n,)."""
    return rows.new_zeros(groups, rows.shape[1]).index_add_(0, group, rows)


def _spread(of_rows: Tensor, x: Tensor) -> Tensor:
    """Values (n, C) as (n, C, 1, …), for the positions of x."""
    return of_rows.view(*of_rows.shape, *[1] * (x.ndim - 2))


class BatchNorm(_BatchNorm):
    """torch's BatchNorm1d or 2d with the statistics of the batch of all processes."""

    across_ranks = True

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine)
        self.__dict__.update(layer.__dict__)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accepts vectors and maps."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, …) → (n, C, …)."""
        return plain(self, x) if self.training else super().forward(x)


def plain(layer: _BatchNorm, x: Tensor) -> Tensor:
    """Plain BN in training mode, (n, C, …) → (n, C, …), with the batch of all processes."""
    if ranks.size() == 1:
        return _BatchNorm.forward(layer, x)
    y, mean, variance = normalise(x, layer.weight, layer.bias, layer.eps)
    record(layer, mean, variance, ranks.size() * x.numel() // x.shape[1])
    return y


@torch.no_grad()
def record(layer: Any, mean: Tensor, variance: Tensor, values: int) -> None:
    """Adds the mean over groups of statistics (G, C) of `values` numbers to running statistics."""
    if layer.running_mean is None:
        return
    layer.num_batches_tracked.add_(1)
    momentum = layer.momentum
    share = 1 / int(layer.num_batches_tracked) if momentum is None else momentum
    layer.running_mean.lerp_(mean.mean(0), share)
    layer.running_var.lerp_(variance.mean(0) * (values / max(values - 1, 1)), share)


def spread(network: nn.Module, batch: int) -> None:
    """Makes every norm of the batch inside a network see the whole batch of `batch` images, in place.

    Plain BN is replaced by `BatchNorm`. A norm whose class says `across_ranks` does it by itself. Any
    other that keeps statistics of a batch, or whose component says `batch_dependent`, gets the samples
    of all processes, which costs as much as on one.
    """
    done: set[int] = set()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and type(child) in (nn.BatchNorm1d, nn.BatchNorm2d):
                setattr(module, name, BatchNorm(child))
    for module in list(network.modules())[1:]:
        statistics = isinstance(getattr(module, "running_mean", None), Tensor)
        of_the_batch = statistics or getattr(module, "batch_dependent", False)
        if id(module) in done or not of_the_batch:
            continue
        forward = _shared if _across(module) else _gathered
        # Of this module alone.
        module.forward = functools.partial(forward, module, module.forward, batch)
        done |= {id(inside) for inside in module.modules()}


def _across(module: nn.Module) -> bool:
    """Whether a norm's statistics are those of all processes; a subclass may have others."""
    if type(module) in (OverTokens, ChannelsLast):
        return all(map(_across, module.children()))
    return bool(vars(type(module)).get("across_ranks"))


def _has_all(x: Tensor, batch: int) -> bool:
    """Whether a tensor has the rows of all images.

    One with a process's own rows may be of the class too, if the mean of all was taken from it.
    """
    return isinstance(x, ranks.Whole) and len(x) % batch == 0


def _shared(
    module: nn.Module, forward: Callable[[Tensor], Tensor], batch: int, x: Tensor
) -> Tensor:
    """Of a norm that reduces its statistics: alone on the rows of the whole batch."""
    with ranks.alone() if _has_all(x, batch) else contextlib.nullcontext():
        return forward(x)


def _gathered(
    module: nn.Module, forward: Callable[[Tensor], Tensor], batch: int, x: Tensor
) -> Tensor:
    """Of any other norm: it gets the rows of the whole batch."""
    if ranks.size() == 1 or not module.training or _has_all(x, batch):
        return forward(x)
    rows = ranks.gather(x)
    with ranks.alone():
        y = forward(rows)
    return ranks.own(y)
