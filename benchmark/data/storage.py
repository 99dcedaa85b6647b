"""Where the images of a training run are: in memory, on the device, or memory-mapped on disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmark.data.manifest import UNLABELLED, Manifest, Storage
from benchmark.data.shards import Shards

IN_MEMORY = 1 << 30
"""Most bytes of images that `auto` puts into a process's own memory."""

ON_DEVICE = 0.25
"""Largest share of a GPU's free memory that `auto` fills with images."""

_sharing = 1


def share_device(processes: int) -> None:
    """Says how many processes use this one's GPU, which then share ON_DEVICE of its free memory."""
    global _sharing
    _sharing = processes


AHEAD = 2
"""Batches that are gathered while the device is busy with an earlier one."""


def chosen(storage: Storage, size: int, device: torch.device) -> Literal["device", "host", "disk"]:
    """Where images of `size` bytes in all are kept.

    With `auto` on the device if there is room, else memory-mapped: several processes then share them
    in the page cache, and images that do not fit are read when needed. On a CPU, `device` and `host` are
    the same.
    """
    if storage != "auto":
        return storage
    limit = IN_MEMORY
    if device.type == "cuda":
        limit = int(ON_DEVICE / _sharing * torch.cuda.mem_get_info(device)[0])
    return "device" if size <= limit else "disk"


class Images:
    """The uint8 images of a split, wherever they are. Batches of them are on `device`."""

    def __init__(self, rows: Tensor | Shards, places: Tensor, device: torch.device) -> None:
        """`places` (N,) are the images of the split among `rows`, on the CPU."""
        self._rows, self.device = rows, device
        self.shape = (len(places), *rows.shape[1:])
        on_device = isinstance(rows, Tensor) and rows.device == device
        self._places = places.to(device) if on_device else places
        self.ready = on_device
        """Whether a batch needs no reading and no copying."""

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """The images (B, C, H, W) of an index (B,) or a slice."""
        if isinstance(index, Tensor):
            index = index.to(self._places.device)
        return self._gather(self._places[index]).to(self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time; the last part may be smaller."""
        return ahead(self, (torch.arange(len(self)).split(size)))

    def also(self, other: Images) -> Images:
        """These images, then those of another split of the same data set."""
        if self._rows is not other._rows:
            raise ValueError("expected splits of one data set")
        return Images(self._rows, torch.cat([self._places, other._places]).cpu(), self.device)

    def subset(self, index: Tensor) -> Images:
        """The images of an index (n,), without reading them."""
        return Images(self._rows, self._places[index.to(self._places.device)].cpu(), self.device)

    def _gather(self, places: Tensor) -> Tensor:
        if isinstance(self._rows, Shards):
            return self._rows.take(places, pinned=self.device.type == "cuda")
        return self._rows[places]

    def copied(self, index: Tensor, stream: torch.cuda.Stream | None) -> Tensor:
        """As `images[index]`, but copied to the GPU in a stream of its own, beside computations."""
        if stream is None:
            return self[index]
        found = self._gather(self._places[index.cpu()])
        with torch.cuda.stream(stream):
            return (found if found.is_pinned() else found.pin_memory()).to(
                self.device, non_blocking=True
            )


Labelled = tuple[Images | Tensor, Tensor]
"""Images (N, C, H, W), uint8, and their classes (N,), int64."""


@dataclass(frozen=True)
class Splits:
    """Splits of a built data set by name; labels are int64 (N,), on the CPU, -1 for none."""

    manifest: Manifest
    images: dict[str, Images]
    labels: dict[str, Tensor]

    def trained(self, labels: bool) -> tuple[Images, Tensor]:
        """What a method trains on: the training split and, if it needs no labels, the images without."""
        images, found = self.images["train"], self.labels["train"]
        if labels or UNLABELLED not in self.images:
            return images, found
        other = UNLABELLED
        return images.also(self.images[other]), torch.cat([found, self.labels[other]])


def subset(split: Labelled, index: Tensor) -> Labelled:
    """Some images of a split, with their labels."""
    images, labels = split
    chosen = images.subset(index) if isinstance(images, Images) else images[index]
    return chosen, labels[index]


def ahead(images: Images | Tensor, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches of some indices, in order, gathered by a thread while earlier ones are used."""
    if isinstance(images, Tensor) or images.ready:
        yield from (images[index] for index in indices)
        return
    device = images.device
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def ready(batch: Tensor) -> Tensor:
        if stream is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            batch.record_stream(current)
        return batch

    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Tensor]] = deque()
        for index in indices:
            waiting.append(thread.submit(images.copied, index, stream))
            if len(waiting) > AHEAD:
                yield ready(waiting.popleft().result())
        while waiting:
            yield ready(waiting.popleft().result())
