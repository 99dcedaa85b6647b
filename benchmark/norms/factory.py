"""The one place where a norm's name becomes a layer for a site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark.components import registry
from benchmark.core.errors import UserError

Shape = Literal["map", "vector", "tokens"]


EPS = 1e-5
"""What norms add to a variance, unless the model has another number: torch's default for BN and GN."""

MOMENTUM = 0.1
"""The weight of a batch in running statistics, unless the model has another: torch's default."""


@dataclass(frozen=True)
class Site:
    """A norm's place in a network, for a map (N, C, H, W), a vector (N, C) or tokens (N, T, C)."""

    shape: Shape
    width: int
    """C, the number of channels."""
    section: str
    """backbone, projector, predictor or decoder; used in error messages."""
    positions: int = 1
    """Positions of one sample over which a norm could average: H·W of a map, T of tokens."""
    affine: bool = True
    """Whether it has a learnable scale and shift; some heads end in a norm without them."""
    activated: bool = False
    """Whether an activation follows, which a norm that includes one replaces."""
    eps: float = EPS
    momentum: float = MOMENTUM
    """The weight of a batch in running statistics."""
    biased: bool = False
    """Whether the layer before it has a bias, so that it needs none if it does not normalize."""
    merged: bool = False
    """Whether tokens (M, …, C) come from N < M samples, M / N of them one after the other."""
    class_token: bool = False
    """Whether tokens are (N, T, C) and the first of each sample is its class token."""
    path: str = ""
    """Its place in the network, for error messages."""
    own: nn.Module | None = None
    """The norm that the network has there by itself."""

    def __str__(self) -> str:
        place = f"at {self.path} of the" if self.path else "in the"
        return f"{place} {self.section} ({self.shape} of {self.width} channels)"


class SectionNorms:
    """The norms of one section of one network: the factory that backbones and heads call.

    `spec` is the section's entry of a resolved scheme: `{"norm": "gn", "groups": 8}`. Its `parts` are
    entries with a pattern of `sites` that have another norm.
    """

    def __init__(self, section: str, spec: Mapping[str, Any]) -> None:
        self.section = section
        self.name = str(spec["norm"])
        self.facts = registry.facts("norm", self.name)
        self.options = registry.complete("norm", self.name, registry.norm_options(spec))
        self._module = registry.load("norm", self.name)
        self.parts = [
            (part["sites"], SectionNorms(section, part)) for part in spec.get("parts", ())
        ]

    def at(self, matches: Callable[[str], bool]) -> SectionNorms:
        """The norms of a site: those of the first part whose pattern matches, or else these."""
        return next((norms for pattern, norms in self.parts if matches(pattern)), self)

    def layer(
        self,
        shape: Shape,
        width: int,
        positions: int = 1,
        affine: bool = True,
        shift: bool = True,
        class_token: bool = False,
    ) -> nn.Module:
        """A new layer for one site; raises UserError if the norm is not defined there.

        Without `shift` it learns its scale alone, and its shift stays zero.
        """
        layer = self.build(
            Site(shape, width, self.section, positions, affine, class_token=class_token)
        )
        if not shift:
            for name, parameter in layer.named_parameters():
                if name.rpartition(".")[2] == "bias":
                    parameter.requires_grad_(False)
        return layer

    def activated(
        self,
        shape: Shape,
        width: int,
        activation: nn.Module,
        positions: int = 1,
        class_token: bool = False,
    ) -> tuple[nn.Module, nn.Module]:
        """A new layer and the activation after it: the identity if the norm includes one."""
        layer = self.build(
            Site(shape, width, self.section, positions, activated=True, class_token=class_token)
        )
        return layer, nn.Identity() if self.facts.get("activates") else activation

    def build(self, site: Site) -> nn.Module:
        """A new layer for a site; raises UserError if the norm is not defined there."""
        try:
            layer: nn.Module = self._module.build(self.name, site, **self.options)
        except ValueError as error:
            raise UserError(f"norm {self.name!r} is not defined {site}: {error}") from None
        # The network's own one depends on the batch only if it has running statistics.
        if layer is not site.own and isinstance(layer, nn.Module):
            layer.batch_dependent = self.facts["batch_dependent"]
        return layer

    def check_batch(self, size: int) -> None:
        """Raises UserError if the norm is not defined for batches of that size."""
        check = getattr(self._module, "check_batch", None)
        try:
            if check is not None:
                check(self.name, size, **self.options)
        except ValueError as error:
            raise UserError(f"norm {self.name!r} in the {self.section}: {error}") from None
        for _, part in self.parts:
            part.check_batch(size)

    def convolution(self, conv: nn.Conv2d) -> nn.Conv2d:
        """The convolution before a norm, in the form the norm needs, e.g. with standardized weights."""
        change = getattr(self._module, "convolution", None)
        try:
            return conv if change is None else change(self.name, conv)
        except ValueError as error:
            raise UserError(f"norm {self.name!r} in the {self.section}: {error}") from None

    def branch(self) -> nn.Module | None:
        """The layer that the norm adds at the end of a residual branch, if any."""
        return SkipInit() if self.facts.get("branch") == "skipinit" else None


class SkipInit(nn.Module):
    """A learnable scalar, zero at the start, on a residual branch (De & Smith 2020, 2002.10444)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """x · gain, any shape."""
        return x * self.gain


class OverTokens(nn.Module):
    """Applies a layer for vectors (N, C) to tokens (N, T, C), each token a sample.

    nn.BatchNorm1d on (N, T, C) would treat the T tokens as channels.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) → (N, T, C)."""
        return self.layer(x.flatten(0, -2)).view(x.shape)


class ChannelsLast(nn.Module):
    """Applies a layer for (N, C, …) to tokens (N, T, C), each image a sample."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, …, C) → (N, …, C)."""
        return self.layer(x.movedim(-1, 1)).movedim(1, -1)
