"""The interface of methods: their input, and what the training loop calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone, ImageShape, Mask, MaskedBackbone
from benchmark.core import ranks
from benchmark.core.randomness import Draw, keyed
from benchmark.core.transfer import pack
from benchmark.methods.micro_batches import MicroBatches, Part
from benchmark.norms.factory import SectionNorms


class Batch(NamedTuple):
    """What one step trains on, or one micro-batch or one process's share of it."""

    views: Sequence[Tensor]
    """As many as the method's `views`, then local ones if the recipe has any.

    Each is (N, C, H, W), standardised, on the device; local ones may be smaller."""
    labels: Tensor
    """Class indices (N,), for the supervised control alone."""
    draw: Draw
    """The step's own randomness."""
    progress: float
    """The share of the training before this step, from 0 to just below 1."""
    micro_batches: MicroBatches | None = None
    """How the step is divided; None for one pass, and for a micro-batch."""
    part: Part | None = None
    """The part of the step that this is; None for a whole step."""
    drawn: Mapping[str, Tensor] = MappingProxyType({})
    """What `Method.draws` returned for the step, on the device; see `Method.drawn`."""

    @property
    def size(self) -> int:
        """The number of images of the step, for which a method draws its random numbers."""
        return self.part.size if self.part else len(self.views[0])

    @property
    def last(self) -> bool:
        """Whether the step ends with this batch, so that its state may move on."""
        return self.part is None or self.part.last

    def own(self, values: Tensor) -> Tensor:
        """Of values (N, …) of the step's images, those of this batch."""
        if self.part is None:
            return values
        return values[self.part.rows.to(values.device)].as_subclass(Tensor)

    def take(self, part: Part) -> Batch:
        """A micro-batch of this step."""
        taken = self._replace(part=part)
        views = [taken.own(view) for view in self.views]
        return taken._replace(views=views, labels=taken.own(self.labels))


class Policy(NamedTuple):
    """How a teacher's norms get their statistics."""

    statistics: str
    """`batch`: the current batch; the teacher has running statistics of its own. `running`: the latter.
    `momentum`: a weighted mean of history and current batch. `eman`: the moving average of the
    student's running statistics, in evaluation mode (2101.08482, equation 3)."""
    shuffle: bool
    """Whether each forward pass permutes its batch across BN groups, and back (MoCo, §3.3)."""


class Outcome(NamedTuple):
    """What a forward pass returns."""

    loss: Tensor
    """A scalar with a gradient."""
    pretext: Tensor | None
    """Accuracy of the pretext task in 0..1, a detached scalar, where the task has one."""


class QueryAndTarget(NamedTuple):
    """The networks (N, C, H, W) → (N, D) whose outputs a task with two views compares."""

    query: nn.Module
    """The network of the first view."""
    target: nn.Module
    """The network of the second view."""
    queue: int = 0
    """Targets of earlier batches that a query is compared with; 0: those of its own batch."""


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
    """`separate`: each view is a forward pass, and a BN batch, of its own; `joint`: see `each_view`."""
    teacher: Policy
    whole_batch_loss: bool = False
    """Whether the loss is not a mean over images, so that it needs all embeddings of a step at once."""


class Method(nn.Module, ABC):
    """A method: a backbone, its heads and a loss."""

    projector: nn.Module
    """The head on the backbone, if the method has one."""

    def __init__(self, backbone: Backbone, context: Context) -> None:
        super().__init__()
        self.backbone = backbone
        self.context = context

    @property
    def eval_backbone(self) -> Backbone:
        """The backbone that is evaluated."""
        return self.backbone

    def embedding_networks(self) -> dict[str, nn.Module]:
        """The networks (N, C, H, W) → (N, D) whose embeddings the diagnostics measure, by section.

        By default the evaluated backbone, and the student's projector on the student's backbone.
        """
        networks: dict[str, nn.Module] = {"backbone": self.eval_backbone}
        if hasattr(self, "projector"):
            networks["projector"] = nn.Sequential(self.backbone, self.projector)
        return networks

    def query_and_target(self) -> QueryAndTarget | None:
        """What the diagnostics' pretext accuracy compares, None where it is not defined.

        By default the projector on the backbone. A `predictor` joins the query's network, and the
        network of a `teacher` is the target's. Only called for methods with two views.
        """
        projected = self.embedding_networks().get("projector")
        if projected is None:
            return None
        predictor = getattr(self, "predictor", None)
        query = nn.Sequential(projected, predictor) if predictor else projected
        return QueryAndTarget(query, getattr(getattr(self, "teacher", None), "network", projected))

    def encode(self, images: Tensor, number: int) -> Tensor:
        """The evaluated backbone's encoding of standardised images (N, C, H, W), as in training.

        Batch norm's statistics are re-estimated from it, so each layer must get what it was trained on.
        `number` is the batch's, for methods that draw something for each batch.
        """
        return self.eval_backbone.features(images)["pooled"]

    @abstractmethod
    def forward(self, batch: Batch) -> Outcome:
        """The loss of one step, or of one micro-batch of it."""

    def draws(self, draw: Draw, size: int) -> dict[str, Tensor]:
        """The random numbers of a step of `size` images, by name, on the CPU.

        The loop asks for them a step or two ahead, in another thread if it trains on an accelerator, and
        sends them there in one copy that nothing waits for. `drawn` has them in the step.
        """
        return {}

    def drawn(self, batch: Batch) -> Mapping[str, Tensor]:
        """What `draws` returned for this step, on the device."""
        if batch.drawn:
            return batch.drawn
        # Called without the loop.
        device = batch.views[0].device
        return pack(self.draws(batch.draw, batch.size), device).to(device)

    def rate_factors(self) -> Mapping[nn.Parameter, float]:
        """Factors of the learning rate of parameters, if they are not all 1."""
        return {}

    def targets(self, batch: Batch) -> list[Tensor]:
        """What a step compares its images with (N, …), computed once for all of its micro-batches."""
        return []

    def start(self) -> None:
        """Called once, after the weights are initialised."""

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step, with the progress of its batch."""

    def each_target(
        self, teacher: nn.Module, batch: Batch, numbers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The teacher's outputs (N, D) of the views `numbers` (by default all), batched as declared.

        N is the number of images of the step, also for a part of it: `matching` has the part's.
        """
        if batch.part is not None and batch.part.targets is not None:
            return list(batch.part.targets)
        numbers = range(len(batch.views)) if numbers is None else numbers
        if self.context.view_batching == "joint":
            views = torch.cat([batch.views[number] for number in numbers])
            with ranks.parts(len(numbers)):
                outputs = ranks.whole(teacher(views, batch, numbers[0]))
            return list(outputs.chunk(len(numbers)))
        return [ranks.whole(teacher(batch.views[n], batch, n)) for n in numbers]

    def matching(self, batch: Batch, values: Tensor) -> Tensor:
        """Of values (N, …) of the step's images, those of the images that `each_view` returns."""
        return values if self._gathers else batch.own(values)

    @property
    def _gathers(self) -> bool:
        """Whether the step is divided among processes and the loss needs all of it."""
        return self.context.whole_batch_loss and ranks.size() > 1

    def each_view(
        self, network: nn.Module, views: Sequence[Tensor], head: nn.Module | None = None
    ) -> list[Tensor]:
        """The output (N, …) of a network and a head on each view, batched as declared (`view_batching`).

        `separate`: each view is a forward pass, and a BN batch, of its own. `joint`: the views of one
        size are one pass of the network, and the outputs of all sizes one pass of the head, as in the
        authors' code of SwAV (2006.09882) and DINO (2104.14294).

        If processes divide the step and the loss needs the whole batch, it has the rows of all images.
        """
        head = nn.Identity() if head is None else head
        if not self._gathers:
            return self._each_view(network, views, head)
        if isinstance(views[0], ranks.Whole):  # outputs of an earlier call: each process has all
            with ranks.alone():
                return self._each_view(network, views, head)
        outputs = self._each_view(network, views, head)
        with ranks.parts(len(views)):
            return list(ranks.whole(torch.cat(outputs)).chunk(len(views)))

    def _each_view(
        self, network: nn.Module, views: Sequence[Tensor], head: nn.Module
    ) -> list[Tensor]:
        if self.context.view_batching == "separate":
            return [head(network(view)) for view in views]
        by_size: dict[torch.Size, list[int]] = {}
        for number, view in enumerate(views):
            by_size.setdefault(view.shape, []).append(number)
        outputs = []
        for same in by_size.values():
            with ranks.parts(len(same)):
                outputs.append(network(torch.cat([views[n] for n in same])))
        with ranks.parts(len(views)):
            parts = head(torch.cat(outputs) if outputs[1:] else outputs[0]).chunk(len(views))
        order = [number for same in by_size.values() for number in same]
        return [parts[order.index(number)] for number in range(len(views))]

    def projections(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Backbone and projector on each view, see `each_view`."""
        return self.each_view(self.backbone, views, self.projector)


class MaskedMethod(Method):
    """A method that predicts the hidden patches of an image from the visible ones."""

    def encode(self, images: Tensor, number: int) -> Tensor:
        """The encoding of masked images, since the network is not trained on whole ones."""
        mask = self.mask(len(images) * ranks.size(), keyed(0, "statistics", number))
        mask = mask._replace(hidden=ranks.own(mask.hidden), visible=ranks.own(mask.visible))
        mask = mask.to(images.device)
        return cast(MaskedBackbone, self.backbone).encode_masked(images, mask)

    @abstractmethod
    def mask(self, n: int, generator: torch.Generator) -> Mask:
        """A random mask of n images, on the CPU."""

    @abstractmethod
    def errors(self, view: Tensor, mask: Mask) -> Tensor:
        """The loss (N,) of each image of a view (N, C, H, W) under its mask."""
