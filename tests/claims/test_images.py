"""What other test images would make of a verdict."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmark.analysis.claims.images import variance_over_images
from benchmark.report.claims import write
from tests.helpers.planted import (
    SEEDS,
    advice,
    effect,
    judged,
    leaks,
    one,
    record_of,
    right,
    shortcut,
    speed,
    stand,
)


@pytest.mark.parametrize("seeds", [1, 4])
def test_variance_is_what_drawing_the_images_anew_adds(seeds: int) -> None:
    """Tables of crossed effects: the spread of their means, less what the seeds show of it."""
    draw = np.random.default_rng(0)
    count, of_image, of_seed, rest = 400, 0.4, 0.02, 0.6
    means, found = [], []
    for _ in range(3000):
        table = (
            of_image * draw.standard_normal(count)
            + of_seed * draw.standard_normal((seeds, 1))
            + rest * draw.standard_normal((seeds, count))
        )
        means.append(table.mean())
        found.append(variance_over_images(table))
    alone = of_image**2 / count
    if seeds == 1:  # the residuals cannot be told from the images
        alone += rest**2 / count
    assert np.mean(found) == pytest.approx(alone, rel=0.05)
    whole = alone + of_seed**2 / seeds + (rest**2 / count / seeds if seeds > 1 else 0.0)
    assert np.var(means) == pytest.approx(whole, rel=0.1)


def test_images_that_do_not_matter_add_nothing() -> None:
    draw = np.random.default_rng(0)
    noise = [variance_over_images(draw.standard_normal((6, 500))) for _ in range(200)]
    assert all(value >= 0 for value in noise)
    assert np.median(noise) < 0.1 / (6 * 500)
    assert variance_over_images([[0.5] * 4, [0.1] * 4]) == 0
    with pytest.raises(ValueError, match="two"):
        variance_over_images([[1.0], [0.0]])


def test_the_interval_is_wider_and_says_what_would_become_of_the_verdict(tmp_path: Path) -> None:
    stand(tmp_path, {"study": effect(0.05)}, one(advice()))
    entry = judged(tmp_path)
    found, estimate = entry["other_images"], entry["estimate"]
    assert found["verdict"] == entry["verdict"] == "supported"
    assert found["se"] > 0.0
    factor = (found["high"] - found["low"]) / (estimate["high"] - estimate["low"])
    expected = math.hypot(estimate["se"], found["se"]) / estimate["se"]
    assert factor == pytest.approx(expected, rel=1e-2)
    assert found["low"] + found["high"] == pytest.approx(2 * estimate["mean"], abs=2e-6)


def test_a_verdict_that_other_images_could_overturn(tmp_path: Path) -> None:
    """Networks that disagree on nearly every image, each seed's on the same ones."""
    stand(tmp_path, {"study": effect(0.02, spread=0.0005)}, one(advice()))
    for seed in SEEDS:
        for scheme, value in (("bn", "a" * 500), ("gn", "5" * 480 + "a" * 20)):
            path = record_of(tmp_path, f"simclr-resnet-{scheme}-s{seed}")
            entry = json.loads(path.read_text(encoding="utf-8"))
            entry["record"]["result"]["correct"] = value
            path.write_text(json.dumps(entry), encoding="utf-8")
    entry = judged(tmp_path)
    assert entry["verdict"] == "supported"
    # 96 % of the images have a difference of ±1.
    assert entry["other_images"]["se"] == pytest.approx(math.sqrt(0.96 / 2000), rel=1e-2)
    assert entry["other_images"]["verdict"] == "undetermined"
    write.write(tmp_path, "mini")
    text = (tmp_path / "results/mini/claims.md").read_text(encoding="utf-8")
    assert "**Other test images** (this decides nothing)" in text
    assert "and the verdict **undetermined**" in text


def test_where_images_are_not_known_there_is_nothing_to_say(tmp_path: Path) -> None:
    for name, of, asked in (
        ("leakage", {"leakage": effect(0.0)}, shortcut()),
        ("measured", {"leakage": effect(0.0)}, leaks()),
        ("speed", {}, speed()),
        ("bare", {}, advice()),
    ):
        stand(tmp_path / name, of, one(asked))
        assert judged(tmp_path / name)["other_images"] is None
    stand(tmp_path / "old", {"study": effect(0.05)}, one(advice()))
    path = record_of(tmp_path / "old", "simclr-resnet-gn-s3")
    entry = json.loads(path.read_text(encoding="utf-8"))
    entry["record"]["result"]["correct"] = None
    path.write_text(json.dumps(entry), encoding="utf-8")
    assert judged(tmp_path / "old")["other_images"] is None


def test_planted_images_have_the_accuracy() -> None:
    bits = bin(int(right("a", 0.613), 16)).count("1")
    assert bits == round(2000 * 0.613)
