"""Root-mean-square normalization (Zhang & Sennrich 2019, 1910.07467), by sample or by position."""

from __future__ import annotations

from torch import Tensor, nn

from benchmark.norms.bases import ByPosition, widened
from benchmark.norms.factory import Site

COMPONENT = [
    {
        "name": "rmsnorm",
        "version": 2,
        "options": {},
        "batch_dependent": False,
    },
    {
        "name": "rmsnorm-position",
        "version": 1,
        "options": {},
        "batch_dependent": False,
    },
]


def build(name: str, site: Site) -> nn.Module:
    """RMSNorm with a scale for each channel and no shift, as in the paper (§3).

    `rmsnorm` on a map is over all channels and positions of a sample, `rmsnorm-position` over the
    channels of each position, as with LN. On vectors and tokens they are the same.
    """
    if site.shape != "map":
        return RMSNorm(site.width, eps=site.eps, elementwise_affine=site.affine)
    kind = MapRMSNorm if name == "rmsnorm" else PositionRMSNorm
    return kind(site.width, eps=site.eps, elementwise_affine=site.affine)


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm over the last dimension, computed in float32 or better."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, C), of the input's type."""
        return super().forward(widened(x)).to(x.dtype)


class PositionRMSNorm(ByPosition, RMSNorm):
    """RMSNorm over the channels of each position of a map."""


class MapRMSNorm(RMSNorm):
    """RMSNorm over all channels and positions of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        wide = widened(x)
        y = wide * (wide.square().mean((1, 2, 3), keepdim=True) + (self.eps or 0.0)).rsqrt()
        if self.weight is not None:
            y = y * self.weight.view(1, -1, 1, 1)
        return y.to(x.dtype)
