"""Statistics of learning curves over seeds and tasks, as rliable defines them.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021): the interquartile
mean of all runs, and percentile intervals of a bootstrap that draws runs anew within each task. Written from the
paper's definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from vidreward.evaluate.bootstrap import interval

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Curve:
    """What one run reached after some numbers of environment steps."""

    steps: Int[ndarray, "P"]
    values: Float[ndarray, "P"]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values) or np.any(np.diff(self.steps) <= 0):
            raise ValueError(f"a curve needs one value a step, and steps that rise; got steps {self.steps.tolist()}")


@dataclass(frozen=True)
class Band:
    """The interquartile mean of several curves, with its interval; equal where there is one run a task."""

    steps: Int[ndarray, "P"]
    mean: Float[ndarray, "P"]
    low: Float[ndarray, "P"]
    high: Float[ndarray, "P"]


@dataclass(frozen=True)
class StepsTo:
    """Environment steps until a curve first reached a threshold."""

    steps: int
    reached: bool
    """False: it never did, and `steps` is the budget."""


@dataclass(frozen=True)
class Estimate:
    """One number over runs, with its interval."""

    value: float
    low: float
    high: float


def interquartile_mean(values: Float[ndarray, "... M"]) -> Float[ndarray, "..."]:
    """Average the middle half along the last axis; a quarter of the values, rounded down, is left out at each end.

    Example:
        >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 30.0])))
        1.5
    """
    count = values.shape[-1]
    cut = count // 4
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(-1)


def resample(scores: Sequence[Float[ndarray, "R P"]], rng: np.random.Generator, num: int) -> Float[ndarray, "B P M"]:
    """Draw runs with replacement within each task; every number of one run is drawn together.

    Args:
        scores: For each task, one row a run; tasks may have different numbers of runs.
        rng: Generator of the draws.
        num: Resamples.

    Returns:
        For each resample and number, those of all M runs drawn.
    """
    drawn = [task[rng.integers(len(task), size=(num, len(task)))] for task in scores]  # (B, R, P) each
    return np.concatenate(drawn, axis=1).swapaxes(1, 2)


def estimate(
    scores: Sequence[Float[ndarray, "R"]],
    rng: np.random.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> Estimate:
    """Estimate the interquartile mean of one number a run.

    Args:
        scores: For each task, one number a run.
        rng: Generator of the resamples.
        num_resamples: Resamples.
        confidence: Of the interval, 0..1.
    """
    band = estimate_band([task[:, None] for task in scores], rng, num_resamples=num_resamples, confidence=confidence)
    return Estimate(*(float(values[0]) for values in band))


def estimate_band(
    scores: Sequence[Float[ndarray, "R P"]],
    rng: np.random.Generator,
    *,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = 0.95,
) -> tuple[Float[ndarray, "P"], Float[ndarray, "P"], Float[ndarray, "P"]]:
    """Estimate the interquartile mean of several numbers a run, with the ends of their intervals.

    Raises:
        ValueError: There is no run.
    """
    if not scores or any(len(task) == 0 for task in scores):
        raise ValueError("an interquartile mean needs at least one run of each task")
    means = interquartile_mean(np.concatenate(scores).T)
    replicates = interquartile_mean(resample(scores, rng, num_resamples))  # (B, P)
    ends = [interval(column, confidence) for column in replicates.T]
    low, high = (np.array([np.nan if end[side] is None else end[side] for end in ends]) for side in (0, 1))
    return means, low, high


def aggregate(
    curves: Sequence[Sequence[Curve]], rng: np.random.Generator, *, num_resamples: int = NUM_RESAMPLES
) -> Band:
    """Summarise the curves of all runs, task by task, at the steps that all of them were measured at.

    Args:
        curves: For each task, the curve of each run.
        rng: Generator of the resamples.
        num_resamples: Resamples.

    Raises:
        ValueError: The runs have no step in common.
    """
    runs = [curve for task in curves for curve in task]
    steps = runs[0].steps
    for curve in runs[1:]:
        steps = np.intersect1d(steps, curve.steps)
    if not len(steps):
        raise ValueError("the runs were never measured at the same step; give runs with the same --eval-every")
    scores = [np.stack([curve.values[np.isin(curve.steps, steps)] for curve in task]) for task in curves]
    return Band(steps, *estimate_band(scores, rng, num_resamples=num_resamples))


def steps_to(curve: Curve, threshold: float, budget: int) -> StepsTo:
    """Find how many steps a run needed to reach a threshold; one that never does counts as its budget.

    Example:
        >>> steps_to(Curve(np.array([100, 200, 300]), np.array([0.1, 0.9, 0.5])), 0.8, 300)
        StepsTo(steps=200, reached=True)
    """
    there = np.flatnonzero(curve.values >= threshold)
    return StepsTo(int(curve.steps[there[0]]), True) if len(there) else StepsTo(budget, False)
