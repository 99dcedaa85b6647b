"""Tables of the ten claims drawn at random and judged, thousands at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from benchmark.analysis.contrasts import COMPARISONS, LEVEL

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Claim:
    """A primary contrast: coefficients over the arms of its experiment."""

    name: str
    coefficients: tuple[int, ...]
    within: bool = False
    """Each arm's values are differences within its networks already, which nothing is pooled for."""

    @property
    def weight(self) -> float:
        """Variance of a difference in that of a single value."""
        return float(sum(c * c for c in self.coefficients))


@dataclass(frozen=True)
class Experiment:
    """What shares a pool: arms of one recipe and one unit, each trained with every seed."""

    name: str
    arms: int
    seeds: int
    claims: tuple[Claim, ...]


PAIR = (1, -1)
CLAIMED = (
    Experiment("learning-rate", 2, 8, (Claim("C1", PAIR),)),
    Experiment("head", 2, 16, (Claim("C2", PAIR),)),
    # Swap gaps without and with shuffling. Those with it are C3a's differences within its networks.
    Experiment("leakage-gap", 2, 19, (Claim("C3a", (0, 1), within=True), Claim("C3b", PAIR))),
    Experiment("leakage", 2, 19, (Claim("C4", PAIR),)),
    # BN in the head, in both, in the backbone.
    Experiment("placement", 3, 20, (Claim("C5", (1, -1, 0)), Claim("C9", (-1, 0, 1)))),
    Experiment("group-size", 2, 19, (Claim("C6", PAIR),)),
    Experiment("vit-placement", 2, 13, (Claim("C7", PAIR),)),
    Experiment("masking", 2, 15, (Claim("C8", PAIR),)),
)
"""The experiments of claims.yaml, each with the arms and seeds that it has in params.yaml."""

WIDE = tuple(
    Experiment(f"wide-{n}", 4, 7, (Claim(f"W{n}", (1, -1, 0, 0)),)) for n in range(COMPARISONS)
)
"""As many claims whose arms stand among others, so that a pool of more than two arms can decide."""


def names(design: Sequence[Experiment]) -> list[str]:
    """The claims of a design."""
    return [claim.name for experiment in design for claim in experiment.claims]


@dataclass(frozen=True)
class World:
    """How values vary. By default every one is normal, independent, of standard deviation 1."""

    deviations: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of each arm, by experiment, where they are not 1."""
    spread: float = 1.0
    """Every arm's deviation is further times a factor, log-uniform in 1/spread..spread."""
    heavy: bool = False
    """Student's t with 5 degrees of freedom, scaled to variance 1, instead of the normal."""
    correlation: float = 0.0
    """Between the values of two arms of deviation 1, seed by seed."""
    step: float = 0.0
    """The grid that C1's values are rounded to, as rates are tried on one."""


@dataclass(frozen=True)
class Verdicts:
    """Of one claim, an entry per table."""

    estimate: Array
    se: Array
    df: Array
    significant: Array
    equivalent: Array


def draw(
    world: World,
    experiment: Experiment,
    tables: int,
    random: np.random.Generator,
    effects: Mapping[str, float],
) -> Array:
    """An experiment's values, tables × arms × seeds; `effects` are the true contrasts."""
    shared = math.sqrt(world.correlation / (1 - world.correlation))
    size = (tables, experiment.arms, experiment.seeds)
    if world.heavy:
        noise = random.standard_t(5, size) / math.sqrt(5 / 3)
    else:
        noise = random.standard_normal(size)
    if experiment.name in world.deviations:
        noise *= np.array(world.deviations[experiment.name])[:, None]
    if world.spread != 1:
        noise *= world.spread ** random.uniform(-1, 1, (tables, experiment.arms, 1))
    values = noise + shared * random.standard_normal((tables, 1, experiment.seeds))
    # The arms' true means for which every contrast has its effect.
    contrasts = np.array([claim.coefficients for claim in experiment.claims], dtype=float)
    wanted = np.array([effects.get(claim.name, 0.0) for claim in experiment.claims])
    values += np.linalg.lstsq(contrasts, wanted, rcond=None)[0][:, None]
    if world.step and experiment.name == "learning-rate":
        values = world.step * np.round(values / world.step)
    return values


def judge(
    experiment: Experiment, values: Array, margin: float, rule: str = "larger"
) -> dict[str, Verdicts]:
    """`contrasts.assess` on whole arrays.

    `rule` may be `pooled`, the pool's spread alone, or `pooled-df`, the larger of both with the pool's
    degrees of freedom whichever it is.
    """
    arms, seeds = experiment.arms, experiment.seeds
    centre = values.mean((1, 2), keepdims=True)
    residuals = values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True) + centre
    shared_df = (arms - 1) * (seeds - 1)
    shared = (residuals**2).sum((1, 2)) / shared_df
    level = LEVEL / COMPARISONS
    found = {}
    for claim in experiment.claims:
        differences = np.tensordot(values, claim.coefficients, ((1,), (0,)))
        own = differences.var(1, ddof=1)
        pooled = np.zeros_like(own) if claim.within else claim.weight * shared
        # Two arms' pool is their differences' spread but for rounding.
        larger = (pooled > own) | (not claim.within and np.isclose(pooled, own, rtol=1e-9))
        alone = rule == "pooled" and not claim.within
        variance = pooled if alone else np.where(larger, pooled, own)
        own_df = np.full_like(own, seeds - 1)
        df = np.where(larger | (rule != "larger"), shared_df, own_df)
        df = own_df if claim.within else df
        estimate, se = differences.mean(1), np.sqrt(variance / seeds)
        size = np.abs(estimate)
        # Without any spread both ratios are infinite, as the chance 4^(1 − n) is below the level.
        significant = size > stats.t.isf(level / 2, df) * se
        equivalent = margin - size > stats.t.isf(level, df) * se
        found[claim.name] = Verdicts(estimate, se, df, significant, equivalent)
    return found


def simulate(
    world: World,
    tables: int,
    random: np.random.Generator,
    *,
    design: Sequence[Experiment] = CLAIMED,
    effects: Mapping[str, float] | None = None,
    margin: float = 0.0,
    rule: str = "larger",
) -> dict[str, Verdicts]:
    """Tables of claims whose true contrasts are `effects`, 0 where not named."""
    found: dict[str, Verdicts] = {}
    for experiment in design:
        values = draw(world, experiment, tables, random, effects or {})
        found |= judge(experiment, values, margin, rule)
    return found


def false_share(
    found: Mapping[str, Verdicts], *, effects: Mapping[str, float] | None = None, margin: float = 0
) -> float:
    """The share of tables with at least one false verdict.

    False is a difference where there is none or of the wrong sign, and equivalence of what differs
    by the margin or more. A margin of 0 lets nothing be equivalent.
    """
    wrong: Array | bool = False
    for name, verdicts in found.items():
        true = (effects or {}).get(name, 0.0)
        sign_is_right = (np.sign(verdicts.estimate) == np.sign(true)) & (true != 0)
        wrong = wrong | (verdicts.significant & ~sign_is_right)
        if abs(true) >= margin:
            wrong = wrong | verdicts.equivalent
    return float(np.mean(wrong))
