"""The tests of all norms accept correct plug-ins of kinds that the benchmark does not have."""

from __future__ import annotations

from pathlib import Path

from benchmark.components import plugins
from tests.helpers import tiny, warm

FILE = """
import torch
from torch import nn

from benchmark.norms.factory import Site

COMPONENT = [
    {"kind": "norm", "name": "maps-alone", "version": 1, "options": {}, "batch_dependent": False},
    {"kind": "norm", "name": "with-vector", "version": 1, "options": {}, "batch_dependent": False},
    {"kind": "norm", "name": "with-buffer", "version": 1, "options": {}, "batch_dependent": True},
]


def build(name: str, site: Site) -> nn.Module:
    if name == "maps-alone":
        if site.shape != "map":
            raise ValueError("it is defined on maps alone")
        return nn.InstanceNorm2d(site.width, affine=site.affine)
    if name == "with-vector":
        return Scaled(site.width, -1 if site.shape == "tokens" else 1, site.affine)
    return Buffered(site.width, -1 if site.shape == "tokens" else 1, site.affine)


class Scaled(nn.Module):
    def __init__(self, width: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(width), requires_grad=affine)

    def forward(self, x):
        length = torch.linalg.vector_norm(x, dim=self.channels, keepdim=True)
        weight = self.weight if self.channels == -1 else self.weight.view(-1, *[1] * (x.ndim - 2))
        return weight * x / length.clamp(min=1e-5) * x.shape[self.channels] ** 0.5


class Buffered(nn.Module):
    def __init__(self, width: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(width), requires_grad=affine)
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x):
        shape = [1] * x.ndim
        shape[self.channels] = -1
        if self.training:
            dims = [d for d in range(x.ndim) if d != self.channels % x.ndim]
            rms = x.square().mean(dims).sqrt()
            self.scale = self.scale.lerp(rms.detach(), 0.1)
        else:
            rms = self.scale
        return self.weight.view(shape) * x / rms.view(shape).clamp(min=1e-5)
"""
"""A norm for maps alone, one whose vector is fixed without `affine`, and one with a buffer of ones."""


def test_a_correct_plug_in_passes_the_tests_of_all_norms(tmp_path: Path) -> None:
    file = tmp_path / "norms.py"
    file.write_text(FILE, encoding="utf-8")
    names = "maps-alone or with-vector or with-buffer"
    environment = tiny.environment() | {plugins.VARIABLE: str(file)}
    done = warm.run_pytest(["tests/norms/test_catalogue.py", "-k", names], environment)
    assert done.returncode == 0, done.stdout
