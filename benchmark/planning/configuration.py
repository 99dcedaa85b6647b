"""What decides the result of a cell, as typed values that are written and read as JSON.

The options of a component stand beside its name. A key that is left out is at its default, and stays
out when it is written again, so that a later option changes no fingerprint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from benchmark.core.value import Value


class _Component(Value):
    """A component's name and, as further keys, its options."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """Those that are not at the component's default."""
        return dict(self.model_extra or {})


class NamedConfig(_Component):
    """A method or an optimizer."""

    name: str


class BackboneConfig(_Component):
    """A backbone."""

    model: str


class NormConfig(_Component):
    """The norm of one section."""

    norm: str


class TeacherConfig(Value):
    """How a momentum encoder's norms get their statistics, see `methods.base.Policy`."""

    statistics: str
    shuffle: bool


class TrainingConfig(Value):
    """How a cell is trained."""

    batch_size: int
    images_seen: int
    """Training images, repetitions counted and views not."""
    learning_rate: float
    """The highest, after the warm-up."""
    weight_decay: float
    weight_decay_end: float | None = None
    """Where it rises along half a cosine; None where it is constant."""
    warmup_fraction: float
    clip_grad_norm: float | None = None
    """Largest gradient norm; None without clipping."""
    precision: Literal["float32", "bfloat16"]
    weight_decay_on: Literal["weights", "all"]
    view_batching: Literal["separate", "joint"]
    optimizer: NamedConfig
    views: tuple[dict[str, Any], ...]
    """The random changes of each view, see `data.augment`."""
    teacher: TeacherConfig | None = None
    """None where the method has no momentum encoder."""

    @property
    def steps(self) -> int:
        """Batches in the whole run; images that do not fill the last one are left out."""
        return self.images_seen // self.batch_size


def ranking_key(knn_k: Sequence[int]) -> str:
    """The metric of a record that tunes learning rates, ranks rows and decides claims.

    kNN accuracy of the pooled embedding with the first number of neighbours, BN statistics re-estimated.
    """
    return f"pooled_reestimated.knn{knn_k[0]}"


class EvaluationConfig(Value):
    """How a cell is judged."""

    knn_k: tuple[int, int]
    """Numbers of nearest neighbours; the first one ranks rows and tunes learning rates."""
    knn_temperature: float
    probe_c: tuple[float, ...]
    """Inverse L2 strengths (scikit-learn's C) of the linear probe."""
    precise_bn_batch_size: int
    """Batch in which BN statistics are re-estimated."""
    judge: Literal["test", "validation"]
    """The split that scores it."""


class Configuration(Value):
    """Everything that decides the result of a cell, besides the images and the component versions."""

    method: NamedConfig
    backbone: BackboneConfig
    norms: dict[str, NormConfig]
    """By section."""
    training: TrainingConfig | None
    """None for a control that is not trained."""
    evaluation: EvaluationConfig
    seed: int

    @property
    def recipe(self) -> TrainingConfig:
        """How the cell is trained; ValueError for a control that is not."""
        if self.training is None:
            raise ValueError(f"{self.method.name} is not trained")
        return self.training
