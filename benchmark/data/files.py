"""Image files that a source has found, to be decoded when they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.data.decode import Decoding


@dataclass(frozen=True)
class Files:
    """Image files in the order of the images."""

    root: Path
    names: Sequence[str]
    """Paths relative to `root`."""
    decoding: Decoding
    skip_unreadable: int = 0
    """How many files may be unreadable. They are left out."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image once decoded."""
        return self.decoding.channels, self.decoding.size, self.decoding.size
