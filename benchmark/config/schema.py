"""What a `params.yaml` may hold: its keys and their types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from benchmark.core.value import Value


class Model(Value):
    """Frozen; unknown keys and values of another type are errors."""

    model_config = ConfigDict(strict=True)


class Splits(Model):
    """Images in each split: counts, or shares of a source without an official split."""

    train: int | float = Field(gt=0)
    validation: int | float = Field(gt=0)
    test: int | float = Field(gt=0)


class Data(Model):
    """Where the images come from."""

    source: str
    options: dict[str, Any]
    splits: Splits
    seed: int


class Training(Model):
    """What every trained cell of the track has in common."""

    batch_size: int = Field(ge=2)
    warmup_fraction: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    clip_grad_norm: float | None = Field(gt=0)
    """Largest gradient norm, or null for none; a recipe may have another."""
    precision: Literal["float32", "bfloat16"]
    weight_decay_on: Literal["weights", "all"]
    """`weights`: parameters of two or more dimensions, whatever norm stands around them."""
    teacher: dict[str, Any]
    """How a teacher's norms get their statistics, where a scheme says nothing else."""


class Evaluation(Model):
    """How embeddings are judged."""

    knn_k: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """Numbers of nearest neighbours; the first one ranks the rows and tunes learning rates."""
    knn_temperature: float = Field(gt=0)
    probe_c: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=3)
    """Inverse L2 strengths (scikit-learn's C) of the linear probe."""
    precise_bn_batch_size: int = Field(ge=2)
    """Batch in which BN statistics are re-estimated."""


class MethodParams(Model):
    """One method's recipe on this track.

    `extends: NAME` takes everything from another entry except for the keys given beside it: a recipe
    that differs in one setting. It is resolved before these types are checked.
    """

    method: str | None = None
    """The method, where the entry is not called after it."""
    images_seen: Annotated[
        Annotated[int, Field(ge=1), Tag("number")]
        | Annotated[dict[str, Annotated[int, Field(ge=1)]], Tag("by backbone")],
        Discriminator(lambda given: "by backbone" if isinstance(given, dict) else "number"),
    ]
    """For every backbone, or by backbone. Training images seen, repetitions counted and views not."""
    views: tuple[str, ...]
    """The name of a view for each view the method takes."""
    view_batching: Literal["separate", "joint"] | None = None
    """Whether the views of an image are forward passes, and so BN batches, of their own, or one of all;
    by default what the paper's code does, as the method declares."""
    learning_rate: dict[str, float]
    """Peak learning rate by backbone."""
    weight_decay: dict[str, float]
    """By backbone; the weight decay at the start where `weight_decay_end` has one too."""
    weight_decay_end: dict[str, float] = Field(default_factory=dict)
    """By backbone: what the weight decay rises to, along a half cosine; it is constant if not given."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Largest gradient norm, where it is not the track's."""
    batch_size: int | None = Field(default=None, ge=2)
    """A batch size of its own, where it is not the track's."""
    learning_rates_from: str | None = None
    """The recipe whose tuned learning rates it takes instead of a sweep of its own."""
    options: dict[str, Any]


class Control(Model):
    """A control that is not trained has no recipe."""

    method: str | None = None
    options: dict[str, Any]


def _kind(given: Any) -> str:
    """Which of the two an entry under `methods` is meant to be."""
    return (
        "control" if isinstance(given, dict) and set(given) <= {"options", "method"} else "recipe"
    )


class Grid(Model):
    """Rows: every method in every backbone under every scheme."""

    methods: tuple[str, ...] = Field(min_length=1)
    backbones: tuple[str, ...] = Field(min_length=1)
    schemes: tuple[str, ...] = Field(min_length=1)


class Further(Grid):
    """Rows beside an experiment's own, with fewer seeds where they are only a first look."""

    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)


class BackboneParams(Model):
    """One backbone of this track."""

    model: str
    """The component that builds it."""
    optimizer: str
    """The name of an entry under `optimizers`."""
    arguments: dict[str, Any]


class Experiment(Grid):
    """Rows, each trained with every seed."""

    also: tuple[Further, ...] = ()
    """Further rows, for a question that one grid does not hold."""
    seeds: tuple[int, ...] = Field(min_length=1)
    learning_rates: Literal["default", "tuned"]

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All of its grids."""
        return (self, *self.also)

    def every(self, kind: Literal["methods", "backbones", "schemes"]) -> tuple[str, ...]:
        """The names that its grids list, each once."""
        return tuple(dict.fromkeys(name for grid in self.grids for name in getattr(grid, kind)))

    def seeds_of(self, grid: Grid) -> tuple[int, ...]:
        """The seeds of one of its grids."""
        return (grid.seeds if isinstance(grid, Further) else None) or self.seeds


class Sweep(Model):
    """How learning rates are tuned, on the validation split."""

    seeds: tuple[int, ...] = Field(min_length=1)
    factor: float = Field(gt=1)
    learning_rates: int = Field(ge=3)
    """Rates tried for each row before any extension, the recipe's in their middle (an even number has
    one more below it)."""
    extensions: int = Field(ge=0)
    """How many further rates are tried while the best one of a row is at an edge, for that row and every
    other scheme of its method and backbone."""


class Params(Model):
    """A whole `params.yaml`."""

    track: str
    title: str
    data: Data
    backbones: dict[str, BackboneParams]
    """Backbones by a name of the user's."""
    schemes: dict[str, dict[str, Any]]
    """Schemes beside the presets. `{norm: bn}` stands for BN in every section until it is checked."""
    views: dict[str, dict[str, Any]]
    training: Training
    optimizers: dict[str, dict[str, Any]]
    """Optimizers by name, each with its options."""
    evaluation: Evaluation
    methods: dict[
        str,
        Annotated[
            Annotated[MethodParams, Tag("recipe")] | Annotated[Control, Tag("control")],
            Discriminator(_kind),
        ],
    ]
    experiments: dict[str, Experiment]
    sweep: Sweep

    @property
    def models(self) -> set[str]:
        """The components of all backbones."""
        return {entry.model for entry in self.backbones.values()}
