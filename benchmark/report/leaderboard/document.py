"""The leaderboard for programs, as documented in docs/leaderboard-json.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from benchmark.analysis.leaderboard import Cost, Entry, Pool, Rates, Table
from benchmark.analysis.statistics import LEVEL, Estimate, Measured
from benchmark.provenance.program import Image
from benchmark.report.document import Document, Overrides, at, inside, text
from benchmark.results.metrics import RANKING

SCHEMA = 2
"""Version of the JSON layout; see docs/leaderboard-json.md."""

RULE = (
    "mean ± t(.975, df) · s / √n over the n seeds of a row, cut to 0..1; s is the standard "
    "deviation within rows, pooled over the rows of the same backbone whose every seed finished, per "
    "metric and apart for trained and untrained rows; df = Σ (nᵢ − 1) over the pooled rows. Raw "
    "pixels do not depend on a seed: low = high = mean"
)


class Interval(Document):
    """How intervals are calculated."""

    level: float
    rule: str
    pools: list[Pool]


def _image(image: Image | None) -> str | None:
    return (image.id or f"{image.base}@{image.base_digest}") if image else None


class Provenance(Document):
    """The program that made a record."""

    commit: Annotated[str | None, inside("commit")] = at("program")
    lock_sha256: Annotated[str | None, inside("lock_sha256")] = at("program")
    image: Annotated[str | None, BeforeValidator(_image), inside("image")] = at("program")


class Record(Document):
    """The record of one seed."""

    label: str = at("published", "label")
    seed: int = at("published", "seed")
    status: str = at("published", "record", "status")
    knn_reestimated: Measured | None = at("accuracy")
    sha256: str = at("published", "checksum")
    provenance: Provenance | None = at("origin")
    marks: list[str]
    overrides: Overrides = at("published", "overrides")
    """What `--set` set when it was published, by key; missing if nothing."""


class Row(Document):
    """A row. The key of the metric with more neighbours names their number, e.g. `knn200`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Estimate | None]

    method: str = at("row", "method")
    backbone: str = at("row", "backbone")
    scheme: str = at("row", "scheme")
    control: bool
    rank: int | None
    learnt: bool | None
    best_scheme: bool = at("best")
    tied_for_best: bool = at("tied")
    seeds: list[int]
    status: str
    statuses: dict[str, int] = at("counts")
    complete: bool
    knn_reestimated: Estimate | None = at("estimates", RANKING)
    knn: Estimate | None = at("estimates", "knn")
    linear: Estimate | None = at("estimates", "linear")
    class_token: Estimate | None = at("estimates", "class_token")
    learning_rate: Rates | None = at("rates")
    linear_penalty_at_edge: bool = at("penalty_at_edge")
    embedding_spread: dict[str, Measured | None] = at("collapse")
    relative_update: dict[str, Measured | None] = at("updates")
    cost: Cost
    environments: list[int]
    records: list[Record]


def _row(entry: Entry) -> Row:
    row = Row.model_validate(entry)
    other = {name: e for name, e in entry.estimates.items() if name not in Row.model_fields}
    return row.model_copy(update=other)


def _interval(pools: Sequence[Pool]) -> Interval:
    return Interval(level=LEVEL, rule=RULE, pools=[pool for pool in pools if pool.df])


class Leaderboard(Document):
    """A whole file."""

    layout: int = Field(SCHEMA, serialization_alias="schema")
    """Version of this layout."""
    track: str
    title: str
    experiment: str
    dataset: str
    knn_k: tuple[int, int] = at("neighbours")
    interval: Annotated[Interval, BeforeValidator(_interval)] = at("pools")
    environments: list[dict[str, Any]]
    rows: list[Annotated[Row, BeforeValidator(_row)]] = at("entries")
    overrides: Overrides
    """What `--set` set when the table was made, by key; missing if nothing."""
    sweep_seeds: list[int] = Field(exclude_if=lambda seeds: not seeds)
    """Seeds of the trials that tuned its learning rates; missing if they are those of the track."""


def json(table: Table) -> str:
    """The text of `<experiment>.json`."""
    return text(Leaderboard.model_validate(table))
