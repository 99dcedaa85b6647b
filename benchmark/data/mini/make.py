"""Makes the embedded images of the `mini` track from the official Fashion-MNIST files.

    python -m benchmark.data.mini.make FOLDER_WITH_THE_FOUR_OFFICIAL_FILES

Fashion-MNIST is too easy on raw pixels to tell representations apart, so each image gets nuisances
that carry no information about its class: scale, rotation, shift, contrast, a smooth background
behind the object, and noise. They are drawn once, from a fixed seed, and the finished uint8 images
are shipped, so that every reader of the benchmark trains on the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from benchmark.data.download import md5_of
from benchmark.data.sources import fashion_mnist

SEED = 20260101
COUNTS = {"train": 400, "validation": 100, "test": 200}
"""Images of each class in each split; training and validation come from the official training file."""

SCALE = (0.9, 1.5)
ROTATION = 20.0
SHIFT = 0.17
CONTRAST = (0.5, 1.0)
BACKGROUND = 0.8
NOISE = 0.05


def nuisances(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Disturbs images (N, 1, H, W), float in 0..1, each with its own draw; same shape and range."""
    n, _, height, width = images.shape

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle = uniform(-ROTATION, ROTATION) * math.pi / 180
    scale = uniform(*SCALE)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # affine_grid maps output to input and measures in half-widths: a shift of .17 widths is .34.
    shift = torch.stack((uniform(-2 * SHIFT, 2 * SHIFT), uniform(-2 * SHIFT, 2 * SHIFT)), 1)
    rotation = torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)
    theta = torch.cat((rotation, -(rotation @ shift[:, :, None])), 2)
    grid = F.affine_grid(theta, [n, 1, height, width], align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    # Clothes have dark parts too, so the silhouette is what differs from black, a little widened.
    silhouette = F.grid_sample((images > 0.02).float(), grid, align_corners=False)
    coarse = torch.rand(n, 1, 5, 5, generator=generator)
    background = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    background = background.clamp(0, 1) * BACKGROUND
    bright = moved * uniform(*CONTRAST)[:, None, None, None]
    mixed = silhouette * bright + (1 - silhouette) * background
    return (mixed + NOISE * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def chosen(
    labels: torch.Tensor, counts: list[int], generator: torch.Generator
) -> list[torch.Tensor]:
    """Indices of `counts[k]` images of every class for each split k, in a shuffled order."""
    parts: list[list[torch.Tensor]] = [[] for _ in counts]
    for label in range(10):
        members = torch.nonzero(labels == label).flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        for part, piece in zip(parts, members[: sum(counts)].split(counts), strict=True):
            part.append(piece)
    joined = [torch.cat(part) for part in parts]
    return [part[torch.randperm(len(part), generator=generator)] for part in joined]


def read(path: Path) -> torch.Tensor:
    """The values of one official file, after checking its checksum."""
    expected, found = fashion_mnist.CHECKSUMS[path.name], md5_of(path)
    if found != expected:
        raise SystemExit(f"{path}: md5 {found}, expected {expected}")
    return fashion_mnist.idx(path.read_bytes())


def make(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the embedded file: images (N, 1, 28, 28) uint8 and labels (N,) uint8 by split."""
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for stem, names in (("train", ("train", "validation")), ("t10k", ("test",))):
        images = read(folder / f"{stem}-images-idx3-ubyte.gz")
        labels = read(folder / f"{stem}-labels-idx1-ubyte.gz")
        for name, index in zip(
            names, chosen(labels, [COUNTS[name] for name in names], generator), strict=True
        ):
            disturbed = nuisances(images[index][:, None].float() / 255, generator)
            tensors[f"{name}.images"] = (disturbed * 255).round().to(torch.uint8)
            tensors[f"{name}.labels"] = labels[index]
    return tensors


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(__file__).with_name("mini.safetensors")
    save_file(make(Path(sys.argv[1])), target)
    print(target, hashlib.sha256(target.read_bytes()).hexdigest())
