"""The images that class folders hold, as a Pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark.data.class_folders import Found
from benchmark.data.decode import Decoding
from benchmark.data.files import Files
from benchmark.data.manifest import UNLABELLED
from benchmark.data.pool import NO_LABEL, Pool


def pool_of(
    found: Found, options: Mapping[str, Any], unlabelled: tuple[Path, Sequence[str]] | None = None
) -> Pool:
    """The images of class folders as a Pool; `options` are those of `benchmark.data.decode`.

    Classes are sorted by name, the images of a class by path. `unlabelled` are a folder and the paths of
    images in it without labels, which are last.
    """
    settings = dict(options)
    skipped = settings.pop("skip_unreadable")
    decoding = Decoding(**settings)
    labels, parts, begun = [], {}, 0
    for part, classes in found.parts.items():
        counts = torch.tensor([len(members) for members in classes.values()])
        labels.append(torch.arange(len(classes)).repeat_interleave(counts))
        parts[part] = torch.arange(begun, begun := begun + int(counts.sum()))
    images = [Files(found.root, found.names, decoding, skipped)]
    if unlabelled:
        images.append(Files(*unlabelled, decoding, skipped))
        labels.append(torch.full((len(unlabelled[1]),), NO_LABEL))
        parts[UNLABELLED] = torch.arange(begun, begun + len(unlabelled[1]))
    return Pool(
        images=images,
        labels=torch.cat(labels),
        parts=parts,
        classes=tuple(next(iter(found.parts.values()))),
        ignored=found.ignored,
    )
