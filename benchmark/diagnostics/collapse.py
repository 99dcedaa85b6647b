"""Whether embeddings have collapsed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def embedding_std(z: Tensor) -> float:
    """Mean over dimensions of the deviation over samples of unit-length embeddings (N, D).

    About 1/√D where directions are spread evenly and centred, 0 where all embeddings point the same
    way (SimSiam, 2011.10566, §4.1). Not a number where an embedding is not finite.
    """
    unit = F.normalize(z.double(), dim=1)
    return float(unit.std(0, unbiased=False).mean())
