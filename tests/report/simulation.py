"""Tables of nine claims drawn at random and judged, thousands at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from benchmark.report.contrasts import COMPARISONS, LEVEL

SEEDS = 7
"""Paired seeds of every arm: the fewest that keep both bounds of `test_calibration`."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Claim:
    """A primary contrast: coefficients over the arms of one group of its experiment."""

    name: str
    coefficients: tuple[int, ...]
    group: int = 0

    @property
    def weight(self) -> float:
        """Variance of a difference in that of a single value."""
        return float(sum(c * c for c in self.coefficients))


@dataclass(frozen=True)
class Experiment:
    """What shares a pool: arms of one unit in groups of one method each."""

    name: str
    arms: tuple[int, ...]
    claims: tuple[Claim, ...]


PAIR = (1, -1, 0, 0)
EXPERIMENTS = (
    Experiment("learning-rate", (2,), (Claim("C1", (1, -1)),)),
    Experiment("head", (4,), (Claim("C2", PAIR),)),
    # One experiment in two units, pretext and kNN accuracy, with a pool each.
    Experiment("leakage-pretext", (4,), (Claim("C3", (1, -1, -1, 1)),)),
    Experiment("leakage", (4,), (Claim("C4", PAIR),)),
    Experiment("placement", (4, 2), (Claim("C5", PAIR), Claim("C9", (1, -1), group=1))),
    Experiment("group-size", (4,), (Claim("C6", PAIR),)),
    Experiment("vit-placement", (4,), (Claim("C7", PAIR),)),
    Experiment("masking", (4,), (Claim("C8", PAIR),)),
)
CLAIMS = {claim.name: claim for experiment in EXPERIMENTS for claim in experiment.claims}


@dataclass(frozen=True)
class World:
    """How values vary. By default every one is normal, independent, of standard deviation 1."""

    deviations: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """Of each arm, by experiment and group, where they are not 1."""
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
    df: int
    significant: Array
    equivalent: Array


def draw(
    world: World,
    experiment: Experiment,
    tables: int,
    seeds: int,
    random: np.random.Generator,
    effects: Mapping[str, float],
) -> list[Array]:
    """An experiment's values, tables × arms × seeds for each group; `effects` are true contrasts."""
    shared = math.sqrt(world.correlation / (1 - world.correlation))
    groups = []
    for group, arms in enumerate(experiment.arms):
        size = (tables, arms, seeds)
        if world.heavy:
            noise = random.standard_t(5, size) / math.sqrt(5 / 3)
        else:
            noise = random.standard_normal(size)
        if experiment.name in world.deviations:
            noise *= np.array(world.deviations[experiment.name][group])[:, None]
        if world.spread != 1:
            noise *= world.spread ** random.uniform(-1, 1, (tables, arms, 1))
        values = noise + shared * random.standard_normal((tables, 1, seeds))
        for claim in experiment.claims:
            if claim.group == group:
                values[:, claim.coefficients.index(1)] += effects.get(claim.name, 0.0)
        if world.step and experiment.name == "learning-rate":
            values = world.step * np.round(values / world.step)
        groups.append(values)
    return groups


def judge(
    experiment: Experiment, groups: list[Array], margin: float, rule: str = "larger"
) -> dict[str, Verdicts]:
    """`contrasts.judge` on whole arrays, or what it would be with the pool's spread alone."""
    seeds = groups[0].shape[2]
    squares: Array | float = 0.0
    df = 0
    for values in groups:
        mean = values.mean((1, 2), keepdims=True)
        residuals = values - values.mean(1, keepdims=True) - values.mean(2, keepdims=True) + mean
        squares = squares + (residuals**2).sum((1, 2))
        df += (values.shape[1] - 1) * (seeds - 1)
    level = LEVEL / COMPARISONS
    found = {}
    for claim in experiment.claims:
        differences = np.tensordot(groups[claim.group], claim.coefficients, ((1,), (0,)))
        variance = claim.weight * squares / df
        if rule == "larger":
            variance = np.maximum(variance, differences.var(1, ddof=1))
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
    seeds: int,
    random: np.random.Generator,
    *,
    effects: Mapping[str, float] | None = None,
    margin: float = 0.0,
    rule: str = "larger",
) -> dict[str, Verdicts]:
    """Tables of nine claims whose true contrasts are `effects`, 0 where not named."""
    found: dict[str, Verdicts] = {}
    for experiment in EXPERIMENTS:
        groups = draw(world, experiment, tables, seeds, random, effects or {})
        found |= judge(experiment, groups, margin, rule)
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
