"""The configuration of a cell: typed values that are written and read as JSON.

The options of a component are beside its name. A key that was left out is at its default, and is also
left out when written again, so that a new option changes no fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from benchmark.core.value import Value


class _Component(Value):
    """A component's name and, as further keys, its options."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The options that are not at the component's defaults."""
        return dict(self.model_extra or {})


class NamedConfig(_Component):
    """A method or an optimizer."""

    name: str


class BackboneConfig(_Component):
    """A backbone."""

    model: str
    weights_sha256: str | None = None
    """The checksum of the file with its initial weights; None if they are drawn from the seed."""


class PartConfig(_Component):
    """The norm of some sites of a section."""

    sites: str
    """The name of a place, or a pattern of paths, see `backbones.sites`."""
    norm: str


class NormConfig(_Component):
    """The norm of one section."""

    norm: str
    parts: tuple[PartConfig, ...] = ()
    """Parts of the backbone with another norm; the first whose pattern fits a site has it."""


class TeacherConfig(Value):
    """How a momentum encoder's norms get their statistics, see `methods.base.Policy`."""

    statistics: str
    shuffle: bool


class ScheduleConfig(Value):
    """What the learning rate does after the warm-up, see `config.schema.Schedule`."""

    end: float = 0.0
    """The rate at the end of the cosine, as a share of the peak."""
    drop_at: tuple[float, ...] = ()
    """Shares of the training at which the rate drops, in place of the cosine."""
    drop_by: float = 1.0
    """The factor of each drop."""
    constant: tuple[str, ...] = ()
    """Sections whose rate is the peak throughout."""


class TrainingConfig(Value):
    """How a cell is trained."""

    batch_size: int
    micro_batches: int = 1
    """In how many forward and backward passes a step runs."""
    images_seen: int
    """Training images, repetitions counted and views not."""
    learning_rate: float
    """The highest, after the warm-up."""
    schedule: ScheduleConfig = ScheduleConfig()
    vector_rate: float = 1.0
    """Factor of the learning rate of parameters of fewer than two dimensions."""
    weight_decay: float
    weight_decay_end: float | None = None
    """Its value at the end of half a cosine; None if it is constant."""
    warmup_fraction: float
    clip_grad_norm: float | None = None
    """Largest gradient norm; None without clipping."""
    precision: Literal["float32", "bfloat16"]
    math: Literal["deterministic", "fast"] = "deterministic"
    compile: Literal["none", "inductor", "graphs"] = "none"
    """See `training.acceleration`."""
    weight_decay_on: Literal["weights", "all"]
    view_batching: Literal["separate", "joint"]
    optimizer: NamedConfig
    views: tuple[dict[str, Any], ...]
    """The random changes of each view, see `data.augment`; local views are last."""
    teacher: TeacherConfig | None = None
    """None if the method has no momentum encoder."""

    @property
    def steps(self) -> int:
        """Number of whole batches; the images of an incomplete last batch are left out."""
        return self.images_seen // self.batch_size

    @property
    def sizes(self) -> list[int]:
        """The sides in pixels of views that do not have the images' own size, each once."""
        return sorted({view["size"] for view in self.views if "size" in view})


def ranking_key(knn_k: Sequence[int]) -> str:
    """The metric of a record that tunes learning rates, ranks rows and decides claims.

    kNN accuracy of the pooled embedding with the first number of neighbours, BN statistics re-estimated.
    """
    return f"pooled_reestimated.knn{knn_k[0]}"


class FewLabelsConfig(Value):
    """A part of the training labels, see `config.schema.FewLabels`."""

    share: float
    epochs: int


class FinetuneConfig(Value):
    """How the pre-trained network is fine-tuned, see `config.schema.Finetune`."""

    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]
    """Peak rates, of which the validation split chooses one."""
    layer_decay: float = 1.0
    """Factor of the rate from a layer to the one below it."""
    warmup_fraction: float
    weight_decay: float
    precision: Literal["float32", "bfloat16"]
    weight_decay_on: Literal["weights", "all"]
    optimizer: NamedConfig
    view: dict[str, Any]
    """The random changes of each image, see `data.augment`."""
    norms: Literal["frozen", "batch"]
    """Whether norms with running statistics keep them, or normalize by the batch."""
    labels: tuple[FewLabelsConfig, ...] = ()
    """Parts of the training labels on which it is also fine-tuned."""

    def training(self, learning_rate: float, epochs: int, images: int) -> TrainingConfig:
        """How the network is trained on that many images at one of the learning rates."""
        return TrainingConfig(
            batch_size=self.batch_size,
            images_seen=epochs * images,
            learning_rate=learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            precision=self.precision,
            weight_decay_on=self.weight_decay_on,
            view_batching="separate",
            optimizer=self.optimizer,
            views=(self.view,),
        )


class EvaluationConfig(Value):
    """How a cell is judged."""

    knn_k: tuple[int, int]
    """Numbers of nearest neighbours; the first one ranks rows and tunes learning rates."""
    knn_temperature: float
    probe_c: tuple[float, ...]
    """Inverse L2 strengths (scikit-learn's C) of the linear probe."""
    precise_bn_batch_size: int
    """Batch in which BN statistics are re-estimated."""
    probe: Literal["scikit-learn", "lbfgs"] = "scikit-learn"
    """What fits the linear probe, see `evaluation.probe.SOLVERS`."""
    few_labels: tuple[float, ...] = ()
    """Shares of the training images for the evaluations with few labels."""
    judge: Literal["test", "validation"]
    """The split that scores it."""
    finetune: FinetuneConfig | None = None
    """None if the network is not fine-tuned."""
    transfer: dict[str, str] = Field(default_factory=dict)
    """Other tracks whose images are embedded too, each with the checksum of its images."""


class Configuration(Value):
    """Everything that decides the result of a cell, except its images and component versions."""

    method: NamedConfig
    backbone: BackboneConfig
    norms: dict[str, NormConfig]
    """By section."""
    training: TrainingConfig | None
    """None for a control that is not trained."""
    evaluation: EvaluationConfig
    seed: int
    image_size: int | None = None
    """Side in pixels of what the network sees; None for the images' own size."""

    def each_norm(self) -> Iterator[tuple[str, NormConfig | PartConfig]]:
        """Every norm with its section, those of parts too."""
        for section, norm in self.norms.items():
            yield section, norm
            for part in norm.parts:
                yield section, part

    @property
    def recipe(self) -> TrainingConfig:
        """How the cell is trained; ValueError for a control that is not."""
        if self.training is None:
            raise ValueError(f"{self.method.name} is not trained")
        return self.training
