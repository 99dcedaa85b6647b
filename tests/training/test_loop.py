"""What the loop does to weights, on methods whose gradient is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone, ImageShape
from benchmark.diagnostics.stability import measures
from benchmark.execution.cell import thinned
from benchmark.methods.base import Batch, Context, Method, Outcome, Policy
from benchmark.training.curves import POINTS, UPDATE, stretches
from benchmark.training.loop import Trained, train
from tests.helpers import small

CPU = torch.device("cpu")
BATCH, COUNT = 4, 16
VIEW = {
    "crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "flip": 0.0, "jitter": 0.0,
    "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grayscale": 0.0,
}  # fmt: skip


class Weights(Backbone):
    """Two matrices, a vector, and a matrix that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"first": (3, 4), "second": (2, 2, 3, 3), "vector": (5,), "frozen": (4, 4)}
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(values, requires_grad=name != "frozen"))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError


class Pulled(Method):
    """A loss that is linear in every weight: each gradient is a constant, `pull` in every place."""

    def __init__(self, pull: float) -> None:
        norms: dict[str, Any] = {}
        shape, policy = ImageShape(1, 8, 8), Policy("batch", False)
        super().__init__(Weights(), Context(shape, 2, COUNT, BATCH, norms, "separate", policy))
        self.projector = nn.Linear(3, 2).double()
        self.pull = pull
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, batch: Batch) -> Outcome:
        self.seen.append(self.weights())
        trained = [p for p in self.parameters() if p.requires_grad]
        return Outcome(self.pull * torch.stack([p.sum() for p in trained]).sum(), None)

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.named_parameters()}


def trained(folder: Path, method: Method, steps: int, **recipe: Any) -> Trained:
    given = {"batch_size": BATCH, "images_seen": BATCH * steps, "views": [VIEW]}
    images = torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8)
    return train(
        method, small.recipe(**given | recipe), 0, images, torch.zeros(COUNT, dtype=torch.int64),
        lambda x: x, CPU, folder / "checkpoint.safetensors", "this", lambda *_: True,
    )  # fmt: skip


def cosine(step: int, steps: int, peak: float) -> float:
    """The learning rate of a step, counted from 0."""
    return peak * (1 + math.cos(math.pi * step / steps)) / 2


def decays(folder: Path, steps: int, **recipe: Any) -> list[float]:
    """The weight decay of each step, from what it does to weights that have no gradient."""
    method = Pulled(0.0)
    trained(folder, method, steps, weight_decay=0.2, **recipe)
    weights = [*method.seen, method.weights()]
    shares = []
    for step in range(steps):
        before, after = (weights[step + k]["backbone.first"] for k in (0, 1))
        (ratio,) = set((after / before).flatten().mul(1e12).round().tolist())
        shares.append((1 - ratio / 1e12) / cosine(step, steps, 0.1))
        assert weights[step]["backbone.vector"].equal(weights[0]["backbone.vector"])
        assert weights[step]["backbone.frozen"].equal(weights[0]["backbone.frozen"])
    return shares


def test_weight_decay_rises_to_its_end(tmp_path: Path) -> None:
    """Along a half cosine, as DINO's code: the last step is just below the end."""
    steps = 100
    found = decays(tmp_path, steps, weight_decay_end=0.8)
    expected = [0.8 - 0.6 * (1 + math.cos(math.pi * s / steps)) / 2 for s in range(steps)]
    # The learning rate of the last steps is small, and what it leaves of a decay is rounding.
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[0] == pytest.approx(0.2)
    assert found[50] == pytest.approx(0.5)
    assert 0.799 < found[-1] < 0.8
    assert found == sorted(found)


def test_weight_decay_may_fall(tmp_path: Path) -> None:
    found = decays(tmp_path, 20, weight_decay_end=0.0)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.002


def test_without_an_end_weight_decay_is_constant(tmp_path: Path) -> None:
    assert decays(tmp_path, 20) == pytest.approx([0.2] * 20, rel=1e-4)


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path: Path) -> None:
    method = Pulled(1.0)
    count = sum(p.numel() for p in method.parameters() if p.requires_grad)
    done = trained(tmp_path, method, 2, clip_grad_norm=0.5)
    assert done.curves["gradient_norm"].tolist() == pytest.approx([count**0.5] * 2)  # as it was
    step = method.seen[1]["backbone.first"] - method.seen[0]["backbone.first"]
    assert step.flatten().tolist() == pytest.approx([-0.1 * 0.5 / count**0.5] * 12, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 50, 120])
def test_relative_updates_are_measured_once_a_stretch(tmp_path: Path, steps: int) -> None:
    """Each is ‖η g‖ / ‖w‖ over the matrices of a section; vectors and frozen weights are left out."""
    method, pull = Pulled(0.3), 0.3
    done = trained(tmp_path, method, steps)
    ends = stretches(steps)
    assert len(ends) == min(steps, POINTS)
    assert ends[-1] == steps
    parts = {
        "backbone": ["backbone.first", "backbone.second"],
        "projector": ["projector.weight"],
    }
    assert {name for name in done.curves if name.startswith(UPDATE)} == {
        UPDATE + section for section in parts
    }
    curves = thinned(done)
    for section, names in parts.items():
        curve = done.curves[UPDATE + section]
        assert [s + 1 for s in range(steps) if curve[s].isfinite()] == ends
        expected = []
        for end in ends:
            before = method.seen[end - 1]
            length = sum(float(before[name].square().sum()) for name in names) ** 0.5
            gradient = pull * sum(before[name].numel() for name in names) ** 0.5
            expected.append(cosine(end - 1, steps, 0.1) * gradient / length)
        assert curve[[end - 1 for end in ends]].tolist() == pytest.approx(expected, rel=1e-5)
        assert curves[UPDATE + section] == pytest.approx(expected, rel=1e-5)
        median = sorted(expected)[(len(expected) - 1) // 2]  # torch's: the lower of two
        found = measures(done.curves)["relative_update"]
        assert found[section] == pytest.approx(median, rel=1e-5)
        assert set(found) == set(parts)


def test_relative_updates_of_weights_under_a_norm_fall_as_these_grow(tmp_path: Path) -> None:
    """The same gradient and rate move weights ten times as long by a tenth of the share."""
    plain, long = Pulled(0.3), Pulled(0.3)
    with torch.no_grad():
        for name in ("first", "second"):
            long.backbone.get_parameter(name).mul_(10)
    one, other = (
        trained(tmp_path / name, method, 1).curves[UPDATE + "backbone"]
        for name, method in (("plain", plain), ("long", long))
    )
    assert float(one / other) == pytest.approx(10, rel=1e-5)


class Sections(Pulled):
    """With a predictor, whose gradient is the same constant."""

    def __init__(self, pull: float) -> None:
        super().__init__(pull)
        self.predictor = nn.Linear(3, 2).double()


@pytest.mark.parametrize("on", ["weights", "all"])
def test_each_parameter_has_the_rate_of_its_section_and_its_dimensions(
    tmp_path: Path, on: str
) -> None:
    """SimSiam's predictor, whose rate is constant, and Barlow Twins' biases, whose rate is lower."""
    steps, method = 12, Sections(0.5)
    schedule = {"constant": ["predictor"], "end": 0.25}
    trained(
        tmp_path, method, steps, weight_decay_on=on, schedule=schedule, vector_rate=0.125,
        warmup_fraction=0.25,
    )  # fmt: skip
    seen = [*method.seen, method.weights()]
    for step in range(steps):
        rate = 0.1 * (step + 1) / 3 if step < 3 else 0.025 + 0.75 * cosine(step - 3, 9, 0.1)
        for name, before in seen[step].items():
            expected = 0.1 if name.startswith("predictor") else rate
            expected *= 0.125 if before.ndim < 2 else 1
            expected *= 0 if name.endswith("frozen") else 1
            moved = before - seen[step + 1][name]
            assert moved.flatten().tolist() == pytest.approx([0.5 * expected] * before.numel())


def test_what_decays_is_raised_in_every_group(tmp_path: Path) -> None:
    """Without a gradient, decay alone moves weights; the predictor's at its constant rate."""
    method = Sections(0.0)
    trained(
        tmp_path, method, 8, weight_decay=0.2, weight_decay_end=0.6,
        schedule={"constant": ["predictor"]},
    )  # fmt: skip
    seen = [*method.seen, method.weights()]
    for step in range(8):
        decay = 0.6 - 0.4 * (1 + math.cos(math.pi * step / 8)) / 2
        for name, rate in [("predictor.weight", 0.1), ("backbone.first", cosine(step, 8, 0.1))]:
            ratio = seen[step + 1][name] / seen[step][name]
            assert ratio.flatten().tolist() == pytest.approx([1 - rate * decay] * ratio.numel())
