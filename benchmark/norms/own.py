"""The norm that a network of timm has by itself at each site, as a scheme of its own."""

from __future__ import annotations

from torch import nn

from benchmark.norms.factory import Site

COMPONENT = {
    "name": "own",
    "version": 1,
    "options": {},
    "batch_dependent": True,
}
"""Whether it uses other samples depends on the network; it may."""


def build(name: str, site: Site) -> nn.Module:
    """The network's own layer."""
    if site.own is None:
        raise ValueError("there is no norm in its place that could stay")
    return site.own
