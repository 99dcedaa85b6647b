"""The first moments of a training leave checksums that say where two training runs part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.provenance.trace import STAGES, Tracer, first_difference, of_tensors


def test_a_checksum_is_of_names_types_shapes_and_values() -> None:
    one = torch.arange(24.0).reshape(1, 2, 3, 4)
    base = of_tensors([("a", one)])
    assert base == of_tensors([("a", one.clone())])
    # How it lies in memory is not what it is.
    assert base == of_tensors([("a", one.to(memory_format=torch.channels_last))])
    others = [
        [("b", one)],
        [("a", one.double())],
        [("a", one.reshape(2, 1, 3, 4))],
        [("a", one + 2**-18)],
        [("a", one), ("a", one)],
    ]
    assert len({base, *(of_tensors(other) for other in others)}) == 1 + len(others)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.uint8])
def test_every_type_has_one(dtype: torch.dtype) -> None:
    assert of_tensors([("a", torch.tensor(1, dtype=dtype))]) != of_tensors(
        [("a", torch.tensor(0, dtype=dtype))]
    )


def test_what_was_traced_is_still_there_after_a_resume(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    first = Tracer(file)
    for stage in STAGES:
        first(stage, [(stage, torch.ones(1))])
    again = Tracer(file)
    again("weights", [("weights", torch.ones(1))])
    assert again.found == first.found
    assert set(again.found) == set(STAGES)


def test_a_damaged_trace_is_none(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text("{")
    assert Tracer(file).found == {}


def test_the_first_difference_is_the_earliest() -> None:
    ours = dict.fromkeys(STAGES, "same")
    assert first_difference(ours, ours) is None
    assert first_difference(ours, {}) is None
    assert first_difference(ours, ours | {"first_step": "other"}) == "first_step"
    assert first_difference(ours, dict.fromkeys(STAGES, "other")) == "weights"
    assert first_difference(ours, {"views": "other"}) == "views"
