"""Bases that a norm's class may have before torch's own."""

from __future__ import annotations

from torch import Tensor, nn


class KeepsPrecision(nn.Module):
    """Put before a torch norm among a class's bases: the output has the type of the input.

    Under bfloat16 autocast torch's LN, GN and RMSNorm return float32 and BN returns bfloat16, so that
    the activations between layers, and a residual stream, would be of another precision from norm to
    norm. Statistics are computed in float32 either way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As the torch norm that follows in the order of bases."""
        y: Tensor = super().forward(x)
        return y.to(x.dtype)


class ByPosition(nn.Module):
    """Put before a norm over the last dimension: each position of a map is normalized by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        y: Tensor = super().forward(x.movedim(1, -1))
        return y.movedim(-1, 1)
