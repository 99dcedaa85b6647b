"""The one place where a norm's name becomes a layer: sections hand out layers site by site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.errors import UserError

Shape = Literal["map", "vector", "tokens"]


@dataclass(frozen=True)
class Site:
    """Where a norm stands: what it gets is a map (N, C, H, W), a vector (N, C) or tokens (N, T, C)."""

    shape: Shape
    width: int
    """C, the number of channels."""
    section: str
    """backbone, projector, predictor or decoder; used in error messages."""


class SectionNorms:
    """The norms of one section of one network: the factory that backbones and heads call.

    `spec` is the section's entry of a resolved scheme: `{"norm": "gn", "groups": 8}`.
    """

    def __init__(self, section: str, spec: Mapping[str, Any]) -> None:
        self.section = section
        self.name = str(spec["norm"])
        self.options = {key: value for key, value in spec.items() if key != "norm"}
        self.facts = registry.facts("norm", self.name)
        self._module = registry.load("norm", self.name)

    def layer(self, shape: Shape, width: int) -> nn.Module:
        """A new layer for one site; raises UserError where the norm is not defined there."""
        try:
            layer: nn.Module = self._module.build(
                self.name, Site(shape, width, self.section), **self.options
            )
        except ValueError as error:
            raise UserError(
                f"norm {self.name!r} cannot stand in the {self.section} "
                f"({shape} of {width} channels): {error}"
            ) from None
        return layer

    def check_batch(self, size: int) -> None:
        """Raises UserError if the norm cannot normalize batches of that many samples."""
        check = getattr(self._module, "check_batch", None)
        try:
            if check is not None:
                check(self.name, size, **self.options)
        except ValueError as error:
            raise UserError(f"norm {self.name!r} in the {self.section}: {error}") from None

    def branch(self) -> nn.Module | None:
        """What multiplies the end of a residual branch, or None where the norm brings nothing."""
        return SkipInit() if self.facts["branch"] == "skipinit" else None


class SkipInit(nn.Module):
    """A learnable scalar, zero at the start, on a residual branch (De & Smith 2020, 2002.10444)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """x · gain, any shape."""
        return x * self.gain


class OverTokens(nn.Module):
    """Applies a layer for vectors (N, C) to tokens (N, T, C), each token a sample of its own.

    nn.BatchNorm1d on (N, T, C) would take the T tokens for channels.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) → (N, T, C)."""
        flat: Tensor = self.layer(x.flatten(0, -2))
        return flat.view(x.shape)
