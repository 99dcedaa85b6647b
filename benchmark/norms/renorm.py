"""Batch renormalization (Ioffe 2017, 1702.03275)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.core import ranks
from benchmark.norms.across import moments
from benchmark.norms.bases import RunningNorm
from benchmark.norms.factory import EPS, MOMENTUM, OverTokens, Site

COMPONENT = {
    "name": "batch-renorm",
    "version": 1,
    "options": {
        "r_max": "float >= 1",
        "d_max": "float >= 0",
        "start": "int >= 0",
        "end": "int >= 1",
    },
    "example": {"r_max": 3.0, "d_max": 5.0, "start": 0, "end": 4},
    "batch_dependent": True,
}


def build(name: str, site: Site, r_max: float, d_max: float, start: int, end: int) -> nn.Module:
    """Batch renormalization over the batch and the positions."""
    if end <= start:
        raise ValueError(f"end {end} is not after start {start}")
    layer = BatchRenorm(site.width, r_max, d_max, start, end, site.affine, site.momentum, site.eps)
    return OverTokens(layer) if site.shape == "tokens" else layer


class BatchRenorm(RunningNorm):
    """BN corrected towards the running statistics, within limits (algorithm 1 and §3).

    With batch statistics μ_B, σ_B and running ones μ, σ, the output is (x − μ_B)/σ_B · r + d with
    r = clip(σ_B/σ, 1/r_max, r_max) and d = clip((μ_B − μ)/σ, −d_max, d_max), both without
    gradient. The limits grow linearly from 1 and 0 (which is BN) at forward pass `start` to r_max
    and d_max at pass `end`. The running variance is BN's (the paper moves the standard deviation),
    so that evaluation is BN's.
    """

    across_ranks = True

    def __init__(
        self,
        width: int,
        r_max: float,
        d_max: float,
        start: int,
        end: int,
        affine: bool = True,
        momentum: float | None = MOMENTUM,
        eps: float = EPS,
    ) -> None:
        super().__init__(width, eps, momentum, affine)
        self.r_max, self.d_max, self.begin, self.end = r_max, d_max, start, end

    def limits(self) -> tuple[Tensor, Tensor]:
        """r_max and d_max of this forward pass, scalars on the device.

        1 and 0 while statistics are re-estimated (no momentum), when there is nothing to correct to.
        """
        if self.momentum is None:
            return torch.ones_like(self.running_mean[0]), torch.zeros_like(self.running_mean[0])
        passed = (self.num_batches_tracked - self.begin) / (self.end - self.begin)
        share = passed.clamp(0, 1).to(self.running_mean)
        return 1 + share * (self.r_max - 1), share * self.d_max

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        if not self.training:
            return self.evaluate(x)
        shape = (1, -1, *[1] * (x.ndim - 2))
        # The statistics have their own precision: under autocast x may be bfloat16.
        wide = x.to(self.running_mean)
        mean, variance = moments(wide)
        with torch.no_grad():
            r_max, d_max = self.limits()
            batch_sd, sd = (variance + self.eps).sqrt(), (self.running_var + self.eps).sqrt()
            r = (batch_sd / sd).clamp(1 / r_max, r_max)
            d = ((mean - self.running_mean) / sd).clamp(-d_max, d_max)
            share = self.counted()
            self.running_mean.lerp_(mean, share)
            # Unbiased, as torch's running variance, so that evaluation is BN's.
            count = ranks.size() * x.numel() / x.shape[1]
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)
        y = (wide - mean.view(shape)) * (r / (variance + self.eps).sqrt()).view(shape) + d.view(
            shape
        )
        if self.weight is not None and self.bias is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x)
