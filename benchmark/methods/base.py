"""What a method is given, and what the training loop asks of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone, ImageShape, Mask, MaskedBackbone
from benchmark.core.randomness import Draw, keyed
from benchmark.norms.factory import SectionNorms


class Batch(NamedTuple):
    """What one step trains on."""

    views: Sequence[Tensor]
    """As many as the method's `views`, each (N, C, H, W), standardised, on the device."""
    labels: Tensor
    """Class indices (N,); only the supervised control may look at them."""
    draw: Draw
    """The step's own randomness."""
    progress: float
    """The share of the training that lies behind this step, from 0 to just below 1."""


class Policy(NamedTuple):
    """How a teacher's norms get their statistics."""

    statistics: str
    """`batch`: the current batch of keys, beside running statistics of its own. `running`: its own
    running statistics. `momentum`: history and current batch, weighted. `eman`: the moving average
    of the student's running statistics, in evaluation mode (2101.08482, equation 3)."""
    shuffle: bool
    """Whether each forward pass permutes its batch across BN groups, and back (MoCo, §3.3)."""


class Outcome(NamedTuple):
    """What a forward pass returns."""

    loss: Tensor
    """A scalar with a gradient."""
    pretext: Tensor | None
    """Accuracy of the pretext task in 0..1, a detached scalar, where the task has one."""


class Pair(NamedTuple):
    """The networks (N, C, H, W) → (N, D) whose outputs a task with two views compares."""

    first: nn.Module
    """Of the view that asks."""
    second: nn.Module
    """Of the other view, its target."""
    queue: int = 0
    """Targets of earlier batches from which an image's own is to be told; 0: from the batch's."""


@dataclass(frozen=True)
class Context:
    """What a method may know about the cell when it builds its network."""

    shape: ImageShape
    classes: int
    training_images: int
    batch: int
    norms: Mapping[str, SectionNorms]
    """The norms of each section that the method declares."""
    view_batching: str
    """`separate`: each view is a forward pass, and a BN batch, of its own; `joint`: one for all."""
    teacher: Policy
    """How a teacher's norms get their statistics."""


class Method(nn.Module, ABC):
    """A method: a backbone, its heads and a loss."""

    def __init__(self, backbone: Backbone, context: Context) -> None:
        super().__init__()
        self.backbone = backbone
        self.context = context

    @property
    def evaluated(self) -> Backbone:
        """The backbone whose embeddings are judged."""
        return self.backbone

    def measured(self) -> dict[str, nn.Module]:
        """The networks (N, C, H, W) → (N, D) whose embeddings the diagnostics look at, by section.

        The backbone that is judged, and the student's projector on the student's backbone. A method
        whose attribute `projector` takes something else than an embedding says so here.
        """
        found: dict[str, nn.Module] = {"backbone": self.evaluated}
        projector = getattr(self, "projector", None)
        if isinstance(projector, nn.Module):
            found["projector"] = nn.Sequential(self.backbone, projector)
        return found

    def pair(self) -> Pair | None:
        """What the pretext accuracy of the diagnostics compares; None where it is not defined.

        The projector on the backbone, for both views or, where there is an attribute `teacher`, with
        its network for the second. A method that compares something else says so here. Asked of
        methods with two views alone.
        """
        projected = self.measured().get("projector")
        if projected is None:
            return None
        return Pair(projected, getattr(getattr(self, "teacher", None), "network", projected))

    def encode(self, images: Tensor, number: int) -> Tensor:
        """The judged backbone's encoding of standardised images (N, C, H, W), as the training makes it.

        What the statistics of batch norm are re-estimated from: each layer has to be given there what it
        was trained on. `number` tells apart the batches, where something is drawn for each.
        """
        return self.evaluated.features(images)["pooled"]

    @abstractmethod
    def forward(self, batch: Batch) -> Outcome:
        """The loss of one step."""

    def start(self) -> None:
        """Called once, when the weights have been initialised."""

    def after_step(self, progress: float) -> None:
        """Called once after each optimizer step, with the progress of the batch it was made on."""

    def each_target(
        self, teacher: nn.Module, batch: Batch, numbers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The teacher's outputs (N, D) for each view, batched as the student's views are.

        `numbers` are the views, in the order of the outputs; by default all.
        """
        numbers = range(len(batch.views)) if numbers is None else numbers
        if self.context.view_batching == "joint":
            views = torch.cat([batch.views[number] for number in numbers])
            return list(teacher(views, batch, numbers[0]).chunk(len(numbers)))
        return [teacher(batch.views[number], batch, number) for number in numbers]

    def each_view(self, network: nn.Module, views: Sequence[Tensor]) -> list[Tensor]:
        """`network` of each view (N, …), in one forward pass or in one for each, as declared."""
        if self.context.view_batching == "joint":
            return list(network(torch.cat(list(views))).chunk(len(views)))
        return [network(view) for view in views]


class MaskedMethod(Method):
    """A method that predicts the hidden patches of an image from the visible ones."""

    def encode(self, images: Tensor, number: int) -> Tensor:
        """Of masked images: on whole ones the statistics would be those of another task."""
        mask = self.mask(len(images), keyed(0, "statistics", number)).to(images.device)
        return cast(MaskedBackbone, self.backbone).encode_masked(images, mask)

    @abstractmethod
    def mask(self, n: int, generator: torch.Generator) -> Mask:
        """Which patches of each of n images are hidden, drawn at random, on the CPU."""

    @abstractmethod
    def errors(self, view: Tensor, mask: Mask) -> Tensor:
        """The loss (N,) of each image of a view (N, C, H, W) under its mask."""
