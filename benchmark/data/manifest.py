"""The manifest of a built data set: what its images are and how they were made. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ConfigDict, ValidationError, model_validator

from benchmark.core import canonical_json
from benchmark.core.errors import UserError
from benchmark.core.value import Value, first_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT: Final = 3
"""Version of the layout of a built data set."""

Storage = Literal["auto", "device", "host", "disk"]
"""Where the images of a training run are kept, see `benchmark.data.storage`."""

MANIFEST, TENSORS = "manifest.json", "splits.safetensors"

NAMES = ("train", "validation", "test")
"""The splits that every data set has."""

UNLABELLED: Final = "unlabelled"
"""The split of images without labels, which some data sets have."""


class _Part(Value):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Source(_Part):
    """The data source that made the images."""

    name: str
    version: int
    options: dict[str, Any]
    """The options that decide the images and are not at their defaults."""
    sha256: str | None = None
    """Checksum of the source's file, if the source is a plug-in file."""


class Split(_Part):
    """One split."""

    count: int
    """Number of images."""
    per_class: dict[str, int] | None = None
    """Number of images of each class; missing if they have no labels."""
    sha256: str
    """Checksum of the images' bytes, then the labels as little-endian 64-bit integers, -1 for none."""


class Copies(_Part):
    """Numbers of exact copies: images whose pixels equal those of another one."""

    in_source: int
    """Images of the source that repeat an earlier one."""
    in_several_classes: int
    """Different images that have more than one label."""
    within: dict[str, int]
    """By split: its images that repeat another one of the split."""
    across: dict[str, int]
    """By pair of splits, e.g. `test_in_train`: the test images that are also training images."""


class Manifest(_Part):
    """A built data set, as `manifest.json` describes it."""

    format: Literal[3]
    """Version of the layout."""
    track: str
    source: Source
    shape: tuple[int, int, int]
    """Channels, height and width of each image."""
    classes: tuple[str, ...]
    """The classes in the order of their labels."""
    seed: int
    """Seed of the division into splits."""
    asked: dict[str, int | float]
    """`data.splits` of `params.yaml`: the number or share of the images in each split."""
    splits: dict[str, Split]
    shards: int
    """Number of files with images."""
    mean: tuple[float, ...]
    """Mean of each channel, pixels in 0..1, rounded to 6 decimals: over the training split and the
    images without labels."""
    std: tuple[float, ...]
    """Standard deviation of the same."""
    sha256: str
    """Checksum of the data set: the sha256 of the splits' checksums as compact JSON."""
    copies: Copies | None = None
    """Missing if the source has no exact copies."""
    ignored: dict[str, int] | None = None
    """Number of files that were not read as images, by suffix; missing if there are none."""
    unreadable: int | None = None
    """Number of image files that could not be read and were left out; missing if there are none."""
    enlarged: int | None = None
    """Number of images that were smaller than their stored size; missing if there are none."""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if set(self.splits) - {UNLABELLED} != set(NAMES):
            raise ValueError(
                f"expected the splits {', '.join(NAMES)}, found {', '.join(self.splits)}"
            )
        found = dataset_checksum(self.splits)
        if self.sha256 != found:
            raise ValueError(f"expected sha256 {self.sha256} of the data set, found {found}")
        return self

    def of(self, split: str) -> dict[str, int]:
        """The number of images of each class of a split with labels."""
        found = self.splits[split].per_class
        if found is None:
            raise ValueError(f"the images of the split {split!r} have no labels")
        return found

    def trained(self, labels: bool) -> int:
        """The number of images that a method trains on; `labels`: whether it needs their labels."""
        names = ["train"] if labels or UNLABELLED not in self.splits else ["train", UNLABELLED]
        return sum(self.splits[name].count for name in names)


def read(folder: Path) -> Manifest:
    """The manifest of a built data set; UserError, with the command that builds it, if damaged."""
    path = folder / MANIFEST
    # Tracks are built into folders of their names. Without a manifest nothing else has the name.
    how = again(folder.name)
    try:
        raw = json.loads(path.read_bytes())
        return Manifest.model_validate(raw)
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a data set, found no such file; {how}") from error
    except ValidationError as error:
        said = first_error(error, Manifest, raw)
        raise UserError(f"{path}: expected a manifest: {said}; {how}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a manifest, found {error}; {how}") from error


def read_labels(folder: Path, split: str) -> NDArray[np.int64]:
    """The label of each image of a split (N,), an index into the classes."""
    from safetensors import safe_open

    with safe_open(folder / TENSORS, "numpy") as file:
        labels: NDArray[np.int64] = file.get_tensor(f"{split}.labels")
    return labels


def dataset_checksum(splits: Mapping[str, Split]) -> str:
    """The sha256 of the splits' checksums."""
    return canonical_json.checksum({name: split.sha256 for name, split in splits.items()})


def again(arguments: str) -> str:
    """The command that builds the data set of a track; `arguments` are its name and any `--set`."""
    return f"run `uv run benchmark data {arguments}`"
