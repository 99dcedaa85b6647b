"""Checks the numbers of a cell that the count of training images limits, without loading torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.components import registry
from benchmark.config.schema import Params
from benchmark.core.errors import UserError
from benchmark.data import manifest
from benchmark.planning.cell import Cell
from benchmark.planning.configuration import Configuration
from benchmark.planning.images import data_folder, dataset_checksum


def check_cells(root: Path, params: Params, cells: Sequence[Cell]) -> None:
    """Raises UserError for the first cell that its training images are too few for.

    Their count is that of the params or, where these give a share, of the built images. Before those
    are built it is not known, and nothing is checked.
    """
    images = params.data.splits.train
    if isinstance(images, float):
        try:
            dataset_checksum(root, params)
            found = manifest.read(data_folder(root, params.track))
        except UserError:
            return
        images = found.splits["train"].count
    for cell in cells:
        check(cell.config, images)


def check(config: Configuration, images: int) -> None:
    """Raises UserError for a batch or an option of the method that is too large for that many images."""
    batch = config.training.batch_size if config.training else 0
    if batch > images:
        raise UserError(
            f"training: batch_size {batch} is larger than the training split of {images} images"
        )
    name = config.method.name
    facts = registry.facts("method", name)
    options = {**facts.get("defaults", {}), **config.method.options}
    for option, share in facts.get("largest_share", {}).items():
        if options[option] > int(share * images):
            raise UserError(
                f"method {name}: {option} is {options[option]}, expected at most "
                f"{int(share * images)}: {share:g} of the {images} training images"
            )
