"""What a `params.yaml` may hold: its keys and their types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class Model(BaseModel):
    """Frozen; unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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

    batch: int = Field(ge=2)
    warmup: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    clip: float | None = Field(gt=0)
    """Largest gradient norm, or null for none."""
    precision: Literal["float32", "bfloat16"]
    weight_decay_on: Literal["weights", "all"]
    """`weights`: parameters of two or more dimensions, whatever norm stands around them."""
    view_batching: Literal["separate", "together"]
    teacher: dict[str, Any]
    """How a teacher's norms get their statistics, where a scheme says nothing else."""


class Evaluation(Model):
    """How embeddings are judged."""

    neighbours: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    temperature: float = Field(gt=0)
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=3)
    """Inverse L2 strengths (scikit-learn's C) of the linear probe."""
    calibration_batch: int = Field(ge=2)
    """Batch in which BN statistics are re-estimated."""


class MethodParams(Model):
    """One method's recipe on this track.

    `like: NAME` takes everything from another entry but for what stands beside it: a recipe that
    differs in one setting. It is resolved before these types are checked.
    """

    method: str | None = None
    """The method, where the entry is not called after it."""
    images: int = Field(ge=1)
    """Training images seen, repetitions counted and views not."""
    views: tuple[str, ...]
    """The name of a view for each view the method takes."""
    rate: dict[str, float]
    weight_decay: dict[str, float]
    batch: int | None = Field(default=None, ge=2)
    """A batch of its own, where it is not the track's."""
    tuned_as: str | None = None
    """The recipe whose tuned rates it takes instead of a sweep of its own."""
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
    """Rows: every method in every family under every scheme."""

    methods: tuple[str, ...] = Field(min_length=1)
    families: tuple[str, ...] = Field(min_length=1)
    schemes: tuple[str, ...] = Field(min_length=1)


class Further(Grid):
    """Rows beside an experiment's own, with fewer seeds where they are only a first look."""

    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)


class Experiment(Grid):
    """Rows, each trained with every seed."""

    also: tuple[Further, ...] = ()
    """Further rows, for a question that one grid does not hold."""
    seeds: tuple[int, ...] = Field(min_length=1)
    rates: Literal["default", "tuned"]

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All of its grids."""
        return (self, *self.also)

    def every(self, kind: Literal["methods", "families", "schemes"]) -> tuple[str, ...]:
        """The names that its grids list, each once."""
        return tuple(dict.fromkeys(name for grid in self.grids for name in getattr(grid, kind)))

    def seeds_of(self, grid: Grid) -> tuple[int, ...]:
        """The seeds of one of its grids."""
        return (grid.seeds if isinstance(grid, Further) else None) or self.seeds


class Sweep(Model):
    """How learning rates are tuned, on the validation split."""

    seeds: tuple[int, ...] = Field(min_length=1)
    factor: float = Field(gt=1)
    rates: int = Field(ge=3)
    """Trials of each row before any extension, the recipe's rate in their middle (an even number has
    one more below it)."""
    extensions: int = Field(ge=0)
    """How many further rates are tried while the best one lies at an edge."""


class Params(Model):
    """A whole `params.yaml`."""

    track: str
    title: str
    data: Data
    families: dict[str, dict[str, Any]]
    schemes: dict[str, dict[str, Any]]
    """Schemes beside the presets. `{norm: bn}` stands for BN in every section until it is checked."""
    views: dict[str, dict[str, Any]]
    training: Training
    optimizers: dict[str, dict[str, Any]]
    """The optimizer of each family."""
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


PIXELS = "pixels"
"""The family of what has no network."""

SECTIONS = ("backbone", "projector", "predictor", "decoder")
