"""What an accelerator is given of a step's views, and what it does with it, on a CPU or on no device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.core.transfer import pack
from benchmark.data import augment
from benchmark.data.augment import Draws, apply, complete, draw_views, view, views
from tests.helpers import small

STRONG = small.LIVELY | {"crop_scale": [0.2, 1.0], "solarize": 0.2}
NOWHERE = torch.device("meta")


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


def pictures(n: int, channels: int = 3, side: int = 28) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [0, 12])
def test_an_accelerators_operations_give_a_cpus_views(
    channels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, images = STRONG | {"size": size}, pictures(64, channels)
    here = view(images, spec, *generators(1))
    monkeypatch.setattr(augment, "color_jitter", augment.jitter_all)
    monkeypatch.setattr(augment, "gaussian_blur", augment.blur_all)
    there = view(images, spec, *generators(1))
    # A pixel that is solarized on one side of the threshold alone would differ by more.
    gap = (here - there).abs()
    assert float(gap.quantile(0.999)) < 1e-4
    assert not torch.equal(here, there)


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_views_of_a_part_are_those_of_the_whole(kind: torch.dtype) -> None:
    images = pictures(20)
    images = images if kind.is_floating_point else (images * 255).to(kind)
    specs: list[dict[str, Any]] = [STRONG, STRONG, STRONG | {"size": 12}]
    whole = views(images, specs, generators(3))
    rows = torch.tensor([3, 4, 11, 19])
    part = views(images[rows], specs, generators(3), rows, len(images))
    assert all(torch.equal(one[rows], other) for one, other in zip(whole, part, strict=True))
    other = views(images[rows], specs, generators(3))
    assert not torch.equal(other[0], part[0])


def test_tensors_of_all_types_travel_as_one() -> None:
    given = {
        "a": torch.arange(5, dtype=torch.int64),
        "b": torch.tensor([True, False, True]),
        "none": torch.empty(0, 4),
        "c": torch.rand(3, 7),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "strided": torch.arange(12.0).view(3, 4).T,
    }
    packed = pack(given, NOWHERE)
    assert packed.buffer is not None
    assert packed.buffer.device.type == "cpu"
    found = packed.to(torch.device("cpu"))
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    bytes_given = sum(tensor.nbytes for tensor in given.values())
    assert packed.buffer.nbytes < bytes_given + 16 * len(given)
    unpacked = pack(given, torch.device("cpu"))
    assert unpacked.buffer is None
    assert unpacked.to(torch.device("cpu"))["c"] is given["c"]


class Recorded(TorchDispatchMode):
    """Keeps the size of the largest tensor and the shapes of all results."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.shapes = 0, list[torch.Size]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.shapes.append(found.shape)
            # A repeated or unfolded view has more elements than memory.
            self.largest = max(self.largest, found.untyped_storage().nbytes())
        return found


def recorded(seed: int, count: int, **changes: Any) -> Recorded:
    """A view of photographs of 256 pixels, made without a device."""
    spec = complete(STRONG | {"size": 224} | changes)
    given = draw_views(count, (256, 256), [spec], [torch.Generator().manual_seed(seed)])
    draws = Draws(**{name.split()[2]: tensor.to("meta") for name, tensor in given.items()})
    images = torch.empty(count, 3, 256, 256, dtype=torch.uint8, device="meta")
    with Recorded() as seen:
        apply(images, spec, draws)
    return seen


def test_no_step_of_a_view_takes_more_than_two_batches_of_memory() -> None:
    """A blur by windows would take 23, see `gaussian_blur`."""
    batch = 8 * 3 * 256 * 256 * 4
    assert recorded(0, 8, blur=1.0).largest < 2 * batch


def test_shapes_depend_on_no_draw() -> None:
    """As a CUDA graph of the views needs it."""
    assert recorded(0, 8).shapes == recorded(1, 8).shapes


def test_what_is_sent_of_a_step_is_small() -> None:
    """At batch 512 and 224 pixels two matrices for each view took 400 MB."""
    specs: list[dict[str, Any]] = [STRONG | {"size": 224}] * 2
    given = draw_views(512, (256, 256), specs, generators(2))
    assert pack(given, NOWHERE).buffer.nbytes < 1024 * 80 + 16 * len(given)  # type: ignore[union-attr]
