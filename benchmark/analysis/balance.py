"""Accuracy on a test split whose classes have different sizes.

If most test images are of one class, a constant answer has a high accuracy. The balanced accuracy is the
mean over classes of the accuracy within each (Brodersen et al. 2010, ICPR, The balanced accuracy and its
posterior distribution).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.config.schema import Params
from benchmark.core.errors import UserError
from benchmark.data import manifest as manifests
from benchmark.planning.images import data_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EVEN = 1.1
"""Classes count as equal if the largest has at most this many times the images of the smallest."""


@dataclass(frozen=True)
class Imbalance:
    """The labels of a test split whose classes differ in size."""

    labels: NDArray[np.int64]
    """(N,)"""
    largest: float
    """The share of the largest class in 0..1."""

    def accuracy(self, correct: str) -> float:
        """The balanced accuracy of a record's `correct`."""
        import numpy as np

        right = correct_images(correct)[: len(self.labels)]
        return float(np.mean([right[self.labels == label].mean() for label in set(self.labels)]))


def imbalance(root: Path, params: Params, dataset: str) -> Imbalance | None:
    """None if the classes of the test split are equal, or if the images `dataset` are not built here."""
    folder = data_folder(root, params.track)
    try:
        manifest = manifests.read(folder)
    except UserError:
        return None
    largest = largest_share(manifest.of("test"))
    if manifest.sha256 != dataset or largest is None:
        return None
    return Imbalance(manifests.read_labels(folder, "test"), largest)


def largest_share(per_class: Mapping[str, int]) -> float | None:
    """The share of the largest class, None if the classes count as equal."""
    counts = [count for count in per_class.values() if count]
    return max(counts) / sum(counts) if max(counts) > EVEN * min(counts) else None


def correct_images(digits: str) -> NDArray[np.float64]:
    """1 for each test image that a network classifies correctly, else 0.

    The first image is the highest bit of the first hexadecimal digit. The last digit is padded with up
    to three zeros.
    """
    import numpy as np

    return np.array([float(bit) for digit in digits for bit in f"{int(digit, 16):04b}"])
