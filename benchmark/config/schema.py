"""The keys of a `params.yaml` and their types."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)

from benchmark.components.facts import Name, Section
from benchmark.core.shares import exact
from benchmark.core.value import Value


class Model(Value):
    """Frozen; unknown keys and values of another type are errors."""

    model_config = ConfigDict(strict=True)


def _unique(listed: tuple[Any, ...]) -> tuple[Any, ...]:
    for item, count in Counter(listed).items():
        if count > 1:
            raise ValueError(f"{item!r} is listed twice")
    return listed


Decay = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)]
Seeds = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_unique)]


class Splits(Model):
    """Images in each split: counts, or shares of a source without an official split."""

    train: int | float = Field(gt=0)
    validation: int | float = Field(gt=0)
    test: int | float = Field(gt=0)
    unlabelled: int | float | None = Field(default=None, gt=0)
    """A number or share of the images without labels, if the source has any."""

    @model_validator(mode="after")
    def _all_counts_or_all_shares(self) -> Splits:
        if isinstance(self.unlabelled, float) and self.unlabelled > 1:
            raise ValueError(
                "expected a number of images without labels, or a share of at most 1.0"
            )
        labelled = self.train, self.validation, self.test
        shares = [part for part in labelled if isinstance(part, float)]
        if shares and (len(shares) < 3 or max(shares) >= 1):
            raise ValueError("expected numbers of images, or fractions below 1")
        if sum(map(exact, shares)) > 1:
            raise ValueError("expected fractions of at most 1 in all")
        return self


class Data(Model):
    """Where the images come from."""

    source: str
    options: dict[str, Any]
    splits: Splits
    seed: int


class Training(Model):
    """The settings that all trained cells of the track share."""

    batch_size: int = Field(ge=2)
    micro_batches: int = Field(default=1, ge=1)
    """In how many parts a step passes through the network; a recipe may have another number."""
    warmup_fraction: float = Field(ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    clip_grad_norm: float | None = Field(gt=0)
    """Largest gradient norm, or null for none; a recipe may have another."""
    precision: Literal["float32", "bfloat16"]
    math: Literal["deterministic", "fast"] = "deterministic"
    """`fast`: TF32, and kernels that give other bits each time; on a GPU alone."""
    compile: Literal["none", "inductor", "graphs"] = "none"
    """How a step runs: as written, compiled, or as a CUDA graph (on a GPU alone)."""
    weight_decay_on: Literal["weights", "all"]
    """`weights`: parameters of two or more dimensions, whatever norms are around them."""
    teacher: dict[str, Any]
    """How a teacher's norms get their statistics, if a scheme does not set it."""


class FewLabels(Model):
    """A part of the training labels."""

    share: Share
    epochs: int = Field(ge=1)
    """Passes over the images with these labels."""


class Finetune(Model):
    """How the whole pre-trained network is trained on labels, with a new linear classifier."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rates: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1), AfterValidator(_unique)
    ]
    """Peak rates that are tried. The validation split chooses one."""
    layer_decay: float = Field(default=1, gt=0, le=1)
    """Factor of the rate from a layer to the one below it."""
    warmup_fraction: float = Field(ge=0, lt=1)
    weight_decay: Decay
    optimizer: str | None = None
    """An entry under `optimizers`, if it is not the backbone's."""
    view: str
    """The name of the random view of each image."""
    norms: Literal["frozen", "batch"]
    """Whether norms with running statistics keep them, or normalize by the batch."""
    labels: tuple[FewLabels, ...] = ()
    """Parts of the training labels on which it is also fine-tuned."""

    @model_validator(mode="after")
    def _each_share_once(self) -> Finetune:
        _unique(tuple(few.share for few in self.labels))
        return self


class Evaluation(Model):
    """How embeddings are judged."""

    knn_k: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """Numbers of nearest neighbours; the first one ranks the rows and tunes learning rates."""
    knn_temperature: float = Field(gt=0)
    probe_c: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=3)
    """Inverse L2 strengths (scikit-learn's C) of the linear probe."""
    precise_bn_batch_size: int = Field(ge=2)
    """Batch in which BN statistics are re-estimated."""
    finetune: dict[Name, Finetune] = Field(default_factory=dict)
    """How each backbone is fine-tuned; those without an entry are not."""
    transfer: dict[Name, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]] = Field(
        default_factory=dict
    )
    """Other tracks whose images are embedded and classified, each with the checksum of its images."""
    probe: Literal["scikit-learn", "lbfgs"] = "scikit-learn"
    """What fits the linear probe: scikit-learn on one core, or torch on the device of the embeddings."""
    few_labels: Annotated[tuple[Share, ...], AfterValidator(_unique)] = ()
    """Shares of the training images on which a further linear probe and kNN are fitted."""


class Schedule(Model):
    """What the learning rate does after the warm-up, if it is not a cosine to zero."""

    end: float = Field(default=0, ge=0, lt=1)
    """The rate at the end of the cosine, as a share of the peak."""
    drop_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of the training at which the rate drops. There is no cosine then."""
    drop_by: float | None = Field(default=None, gt=0, lt=1)
    """The factor of each drop."""
    constant: tuple[Section, ...] = ()
    """Sections whose rate is the peak throughout, without a warm-up."""

    @model_validator(mode="after")
    def _is_one_schedule(self) -> Schedule:
        if bool(self.drop_at) != (self.drop_by is not None):
            raise ValueError("expected drop_at and drop_by together")
        if self.drop_at and self.end:
            raise ValueError("expected an end or drops, not both")
        if any(late >= later for late, later in itertools.pairwise(self.drop_at)):
            raise ValueError(f"drop_at is {list(self.drop_at)}, expected ascending shares")
        return self


class MethodParams(Model):
    """One method's recipe on this track.

    `extends: NAME` takes everything from another entry except for the keys given beside it: a recipe
    that differs in one setting. It is resolved before the types are checked.
    """

    method: str | None = None
    """The method, if the entry has another name."""
    images_seen: Annotated[
        Annotated[int, Field(ge=1), Tag("number")]
        | Annotated[dict[str, Annotated[int, Field(ge=1)]], Tag("by backbone")],
        Discriminator(lambda given: "by backbone" if isinstance(given, dict) else "number"),
    ]
    """Training images seen, for all backbones or by backbone. Repetitions count, views do not."""
    views: tuple[str, ...]
    """The name of each view that the method takes, then those of local views, if it takes any."""
    view_batching: Literal["separate", "joint"] | None = None
    """Whether each view, or all views of one size, are one forward pass and so one BN batch (see
    `Method.each_view`). The default is that of the paper's code, which the method declares."""
    learning_rate: dict[str, Annotated[float, Field(gt=0)]]
    """Peak learning rate by backbone."""
    optimizer: dict[str, str] = Field(default_factory=dict)
    """By backbone: the name of an entry under `optimizers`, if it is not the backbone's."""
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps in which the learning rate rises, if it is not the track's."""
    schedule: Schedule = Schedule()
    vector_rate: float = Field(default=1, gt=0)
    """Factor of the learning rate of parameters of fewer than two dimensions: biases, and the scales
    and shifts of norms."""
    weight_decay: dict[str, Decay]
    """By backbone: the weight decay, at the start if `weight_decay_end` has one too."""
    weight_decay_on: Literal["weights", "all"] | None = None
    """What weight decay applies to, if it is not the track's."""
    weight_decay_end: dict[str, Decay] = Field(default_factory=dict)
    """By backbone: the weight decay at the end of a half cosine; constant if not given."""
    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Largest gradient norm, if it is not the track's."""
    batch_size: int | None = Field(default=None, ge=2)
    """Batch size, if it is not the track's."""
    micro_batches: int | None = Field(default=None, ge=1)
    """Parts of a step, if not as many as the track's."""
    learning_rates_from: str | None = None
    """The recipe whose tuned learning rates it uses. It has no sweep of its own."""
    options: dict[str, Any]


class Control(Model):
    """A control that is not trained, so it has no recipe."""

    method: str | None = None
    options: dict[str, Any]


def _kind(given: Any) -> str:
    """Whether an entry under `methods` is a recipe or a control."""
    return (
        "control" if isinstance(given, dict) and set(given) <= {"options", "method"} else "recipe"
    )


class Grid(Model):
    """Rows: each method with each backbone and each scheme."""

    methods: Names
    backbones: Names
    schemes: Names


class Further(Grid):
    """Further rows of an experiment. They may have fewer seeds."""

    seeds: Seeds | None = None


class Stem(Model):
    """Changes to the first layers of a model of timm, for small images."""

    kernel: int | None = Field(default=None, ge=1)
    """Side of the first convolution's filters, in pixels."""
    stride: int | None = Field(default=None, ge=1)
    pool: Literal[False] | None = None
    """False leaves out the pooling after it."""


class BackboneParams(Model):
    """One backbone of this track."""

    model: str
    """A component of the benchmark, a plug-in, or a model of timm."""
    optimizer: str
    """The name of an entry under `optimizers`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The component's options; of a model of timm the arguments of timm."""
    stem: Stem | None = None
    """Of a model of timm."""
    layout: dict[str, Any] = Field(default_factory=dict)
    """Of a model of timm: where its norms are and how its residual branches start."""
    weights: str | None = None
    """The file with its initial weights, see `config.weights`; drawn from the seed if not given."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """The checksum of that file."""


class Experiment(Grid):
    """Rows, each trained with each seed."""

    also: tuple[Further, ...] = ()
    """Further rows, if one grid cannot list them all."""
    seeds: Seeds
    learning_rates: Literal["default", "tuned"]
    # Left out where it is not set, so that the frozen rules of a leaderboard stay the same.
    sweep_seeds: Seeds | None = Field(default=None, exclude_if=lambda seeds: seeds is None)
    """Seeds of the trials that tune its learning rates, if not those of `sweep`."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Its own grid and the further ones."""
        return (self, *self.also)

    def every(self, kind: Literal["methods", "backbones", "schemes"]) -> tuple[str, ...]:
        """The names in its grids, each once."""
        return tuple(dict.fromkeys(name for grid in self.grids for name in getattr(grid, kind)))

    def seeds_of(self, grid: Grid) -> tuple[int, ...]:
        """The seeds of one of its grids."""
        return (grid.seeds if isinstance(grid, Further) else None) or self.seeds


class Sweep(Model):
    """How learning rates are tuned, on the validation split."""

    seeds: Seeds
    factor: float = Field(gt=1)
    learning_rates: int = Field(ge=3)
    """Rates tried for each row before any extension, the recipe's in the middle. An even number has one
    more below it."""
    extensions: int = Field(ge=0)
    """How many further rates are tried while a row's best rate is at an edge, for all schemes of its
    method and backbone."""


class Cluster(Model):
    """What each cell gets on a cluster, if the command line does not say (docs/scaling.md)."""

    cores: float = Field(default=1, gt=0)
    gpus: float | None = Field(default=None, ge=0, le=1)
    """If not given, 1 where a node has any."""
    shared: str | None = None
    """A folder that all machines see, for the checkpoints of unfinished cells."""


class Params(Model):
    """A whole `params.yaml`."""

    track: Name
    title: str
    data: Data
    storage: Literal["auto", "device", "host", "disk"] = "auto"
    """Where the images are during a training run, which changes no result; see `data.storage`."""
    cluster: Cluster = Cluster()
    """Changes no result."""
    image_size: int | None = Field(default=None, ge=1)
    """Side in pixels of what networks see: random crops in training, the centre in evaluations. If not
    given, the images' own size."""
    backbones: dict[Name, BackboneParams]
    """By name."""
    schemes: dict[Name, dict[str, Any]]
    """Schemes besides the presets. `{norm: bn}` means BN in every section."""
    views: dict[str, dict[str, Any]]
    training: Training
    optimizers: dict[str, dict[str, Any]]
    """Optimizers by name, each with its options."""
    evaluation: Evaluation
    methods: dict[
        Name,
        Annotated[
            Annotated[MethodParams, Tag("recipe")] | Annotated[Control, Tag("control")],
            Discriminator(_kind),
        ],
    ]
    experiments: dict[Name, Experiment]
    sweep: Sweep

    _overrides: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def overrides(self) -> Mapping[str, Any]:
        """The values that the command line set, by their keys, see `config.overrides`."""
        return self._overrides

    def sweep_seeds(self, experiment: str) -> tuple[int, ...]:
        """The seeds of an experiment's trials: its own, or else the track's."""
        return self.experiments[experiment].sweep_seeds or self.sweep.seeds

    def under(self, overrides: Mapping[str, Any]) -> Params:
        """The same params, stating what the command line set in them."""
        found = self.model_copy()
        found._overrides = dict(overrides)
        return found

    @property
    def models(self) -> set[str]:
        """The components of all backbones."""
        return {entry.model for entry in self.backbones.values()}
