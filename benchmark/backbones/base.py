"""The interface of backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from benchmark.config.weights import Loaded
from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms

Network = TypeVar("Network", bound=nn.Module)


class ImageShape(NamedTuple):
    """The images a backbone is built for: channels and side lengths in pixels."""

    channels: int
    height: int
    width: int


class Mask(NamedTuple):
    """Which patches of each image are hidden, on a grid of `patch` × `patch` pixel patches.

    `hidden` is (N, P) bool with the same number of True in every row, `visible` (N, V) the indices
    of the others in ascending order; patches are numbered row by row.
    """

    hidden: Tensor
    visible: Tensor
    patch: int

    def to(self, device: torch.device) -> Mask:
        """The same mask on a device."""
        return self._replace(hidden=self.hidden.to(device), visible=self.visible.to(device))


class Backbone(nn.Module, ABC):
    """Images to embeddings."""

    width: int
    """Length of the embedding."""

    trained: str = "pooled"
    """The readout that methods train."""

    loaded: Loaded | None = None
    """What became of the tensors of the file that its initial weights come from."""

    @abstractmethod
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, C, H, W) → the embedding `pooled` (N, width) and further readouts by name."""

    def freeze_patches(self) -> None:
        """Stops the training of the patch embedding; UserError for a backbone without one."""
        raise UserError("freeze_patches is true, and the backbone embeds no patches")

    def layers(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer or block, from the images on, for rates by layer.

        Raises UserError for a backbone that does not state them.
        """
        raise UserError(
            "evaluation.finetune: layer_decay is below 1, and the backbone does not state its layers"
        )

    def draw(self, seed: int) -> AbstractSet[nn.Parameter]:
        """Draws initial weights and returns these parameters; the benchmark draws all others."""
        return frozenset()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) → embeddings (N, width)."""
        return self.features(images)[self.trained]


class MaskedBackbone(Backbone):
    """A backbone that can encode images with hidden patches, for masked modelling."""

    @abstractmethod
    def encode_masked(self, images: Tensor, mask: Mask) -> Tensor:
        """Images (N, C, H, W) → an encoding of their visible patches, for `decoder`."""

    @abstractmethod
    def decoder(
        self, norms: SectionNorms, width: int, patch: int, depth: int = 1, heads: int = 2
    ) -> nn.Module:
        """A decoder: (encoding, mask) → pixels of every patch (N, P, patch² · C).

        `depth` and `heads` are of its transformer blocks; UserError if it has none and they are not the
        defaults.
        """

    @abstractmethod
    def prepare_masking(self, patch: int) -> None:
        """Adds parameters for masked images; called once, before the weights are initialised.

        Raises UserError if the backbone cannot be trained on masked patches of that many pixels.
        """


def channels_last(network: Network) -> Network:
    """The network with its weights in the memory format that maps have here, in place."""
    made: Network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotations lack this form
    return made


def patches(images: Tensor, patch: int) -> Tensor:
    """Cuts images (N, C, H, W) into patches (N, P, patch² · C), row by row."""
    n, c, h, w = images.shape
    grid = images.reshape(n, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch * patch * c)


def random_mask(n: int, grid: int, ratio: float, patch: int, generator: torch.Generator) -> Mask:
    """Hides round(ratio · P) of the P = grid² patches of each of n images, uniformly at random."""
    total = grid * grid
    order = torch.rand(n, total, generator=generator).argsort(1)
    visible = order[:, : total - round(ratio * total)].sort(1).values
    hidden = torch.ones(n, total, dtype=torch.bool).scatter_(1, visible, False)
    return Mask(hidden, visible, patch)
