"""Heads: small networks between the backbone and the loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from benchmark.norms.factory import SectionNorms


def mlp(
    widths: Sequence[int],
    norms: SectionNorms,
    last: Literal["bias", "none", "norm", "norm without shift", "norm without affine"] = "bias",
    activation: Callable[[], nn.Module] = lambda: nn.ReLU(inplace=True),
) -> nn.Sequential:
    """Linear layers of the given widths with a norm and an activation between them.

    A linear layer before a norm has no bias, since the norm has one. `last` is the end of the head: a
    linear layer with a bias or without, or a norm, with scale and shift or without some of them.
    """
    layers: list[nn.Module] = []
    for incoming, width in itertools.pairwise(widths[:-1]):
        layers.append(nn.Linear(incoming, width, bias=False))
        layers += norms.activated("vector", width, activation())
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last == "bias"))
    if last.startswith("norm"):
        layers.append(
            norms.layer(
                "vector", widths[-1], affine=last != "norm without affine", shift=last == "norm"
            )
        )
    return nn.Sequential(*layers)
