"""SVHN (Netzer et al. 2011), cropped digits: 99,289 colour images of house numbers' digits, 32×32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.io import loadmat

from benchmark.data.fetch import RemoteFile, locate
from benchmark.data.pool import Pool

COMPONENT: dict[str, Any] = {
    "name": "svhn",
    "version": 1,
    "options": {"extra": "bool"},
    "defaults": {"extra": False},
}

FOLDER = "svhn"

# The authors' address has no https. The checksums are compared.
BASE = "http://ufldl.stanford.edu/housenumbers"

CHECKSUMS = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    "extra_32x32.mat": "a93ce644f1a588dc4d68dda5feec44a7",
}


def read(options: Mapping[str, Any], cache: Path) -> Pool:
    """The official files as a Pool: images (99289, 3, 32, 32), parts "train" and "test".

    Options: extra, whether the 531,131 further, easier images are in the training part, too. Raises
    UserError if a file is missing or its checksum is wrong.
    """
    names = list(CHECKSUMS) if options["extra"] else list(CHECKSUMS)[:2]
    images, labels = [], []
    for name in names:
        file = RemoteFile(name, CHECKSUMS[name], (f"{BASE}/{name}",))
        content = loadmat(locate(FOLDER, file, cache), variable_names=["X", "y"])
        # (32, 32, 3, N) column by column: a view of whole images, not a copy.
        images.append(torch.from_numpy(content["X"]).permute(3, 2, 0, 1))
        # A zero is labelled 10.
        labels.append(torch.from_numpy(content["y"].astype("int64").ravel()) % 10)
    train, test, *extra = torch.arange(sum(map(len, images))).split([len(part) for part in images])
    return Pool(
        images=images,
        labels=torch.cat(labels),
        parts={"train": torch.cat([train, *extra]), "test": test},
        classes=tuple("0123456789"),
    )
