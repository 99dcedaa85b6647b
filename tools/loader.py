# ruff: noqa: E402
"""Times batches of views of large images beside torchvision's ImageFolder and DataLoader.

python -m tools.loader FOLDER, with class folders of images. Both give random resized crops, mirrored at
random, as floats, from the page cache. Turns alternate, and medians are printed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmark.core import determinism

determinism.prepare()  # as in training runs

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmark.core.randomness import keyed
from benchmark.core.system import cores
from benchmark.data.augment import view
from benchmark.data.build import build
from benchmark.data.load import load
from benchmark.data.storage import Images, ahead
from benchmark.training.loop import batch_indices

CROP = {"crop_scale": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "flip": 0.5}
OFF = dict.fromkeys(("jitter", "brightness", "contrast", "saturation", "hue", "grayscale"), 0.0)


def main() -> None:
    """Builds the images, times both loaders and prints images a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stored", type=int, default=256, help="side of the stored images")
    parser.add_argument("--size", type=int, default=224, help="side of the views")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        options = {"path": str(given.folder), "size": given.stored, "channels": 3}
        shares = {"train": 0.98, "validation": 0.01, "test": 0.01}
        begun = time.perf_counter()
        manifest = build("loader", "folder", options, shares, 0, Path(name) / "loader")
        seconds = time.perf_counter() - begun
        total = sum(split.count for split in manifest.splits.values())
        print(f"built {total} images in {seconds:.0f} s on {cores()} cores")
        images = load(Path(name) / "loader", ("train",), "disk").images["train"]
        turns: dict[str, Callable[[], Iterator[int]]] = {
            "ImageFolder and DataLoader, all cores": lambda: theirs(given),
            "shards and views, all cores": lambda: ours(images, given, cores()),
            "shards and views, as in a training run": lambda: ours(images, given, 1),
            "shards alone": lambda: (len(b) for b in ahead(images, order(images, given.batch))),
        }
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(given.rounds):
            for name, turn in turns.items():
                rates[name].append(rate(turn(), given.seconds))
    first = statistics.median(next(iter(rates.values())))
    for name, found in rates.items():
        median = statistics.median(found)
        print(f"{name:40} {median:8.0f} images/s  {median / first:5.1f} ×")


def rate(batches: Iterator[int], seconds: float) -> float:
    """Images a second, after the first batches."""
    for _ in range(4):
        next(batches)
    count, begun = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begun) < seconds:
        count += next(batches)
    batches.close()  # type: ignore[attr-defined]
    return count / elapsed


def theirs(given: argparse.Namespace) -> Iterator[int]:
    """Sizes of batches of torchvision's."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(given.size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    loader: DataLoader[Any] = DataLoader(
        ImageFolder(str(given.folder), transform), given.batch, shuffle=True, drop_last=True,
        num_workers=cores(), persistent_workers=True,
    )  # fmt: skip
    while True:
        yield from (len(labels) for _, labels in loader)


def order(images: Images, batch: int) -> Iterator[torch.Tensor]:
    """The images of each step of a training run."""
    return (batch_indices(0, step, batch, len(images)) for step in itertools.count())


def ours(images: Images, given: argparse.Namespace, threads: int) -> Iterator[int]:
    """Sizes of batches of this benchmark's, whose views are made by some threads."""
    torch.set_num_threads(1)
    spec = {**CROP, **OFF, "size": given.size}

    def made(step: int, pixels: torch.Tensor) -> torch.Tensor:
        return view(pixels, spec, keyed(0, "view", 0, step))

    pixels = enumerate(ahead(images, order(images, given.batch)))
    if threads == 1:
        yield from (len(made(*batch)) for batch in pixels)
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(made, *batch) for batch in itertools.islice(pixels, 2 * threads)]
        while True:
            yield len(waiting.pop(0).result())
            waiting.append(pool.submit(made, *next(pixels)))


if __name__ == "__main__":
    main()
