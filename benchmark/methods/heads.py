"""Heads: small networks between the backbone and the loss."""

from __future__ import annotations

import itertools

from torch import nn

from benchmark.norms.factory import SectionNorms


def mlp(widths: list[int], norms: SectionNorms) -> nn.Sequential:
    """Linear layers of the given widths with a norm and a ReLU between them.

    A linear layer before a norm has no bias of its own: the norm, or what stands for it, brings one.
    """
    layers: list[nn.Module] = []
    for incoming, width in itertools.pairwise(widths[:-1]):
        layers += [
            nn.Linear(incoming, width, bias=False),
            norms.layer("vector", width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
