"""Norms that autocast computes in float32 return the precision of their input, as BN does."""

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
