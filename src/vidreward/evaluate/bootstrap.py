"""Draw bootstrap resamples of episodes or of tasks, and read intervals off them.

Episodes of one task share a scene and a difficulty, so they are not independent. With enough tasks, whole tasks are
drawn; with few, drawing tasks would say nothing (one task has one possible resample), so episodes are drawn within
each task and the interval speaks for these tasks only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MIN_TASK_CLUSTERS = 5
"""Tasks needed before they serve as clusters."""


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """How often each task and each episode was drawn, one row a resample; row 0 is the sample itself."""

    unit: Literal["tasks", "episodes"]
    tasks: tuple[str, ...]
    task_weights: Float[ndarray, "R K"]
    episode_weights: Float[ndarray, "R N"]

    @property
    def description(self) -> str:
        """What was drawn, in a sentence for tables."""
        if self.unit == "tasks":
            return f"cluster bootstrap over {len(self.tasks)} tasks"
        return (
            f"bootstrap over episodes within each of {len(self.tasks)} task(s); too few tasks "
            f"(< {MIN_TASK_CLUSTERS}) to speak for others"
        )


def draw(
    tasks: Sequence[str],
    num_resamples: int,
    rng: np.random.Generator,
    *,
    unit: Literal["tasks", "episodes"] | None = None,
) -> Resamples:
    """Draw resamples of a set of episodes.

    Args:
        tasks: Task of each episode.
        num_resamples: Resamples to draw, besides the sample itself in row 0.
        rng: Generator of the draws.
        unit: What is drawn; None chooses tasks when there are at least `MIN_TASK_CLUSTERS`.

    Example:
        >>> draw(["a", "a", "b"], 4, np.random.default_rng(0)).episode_weights[:, :2].sum(1).tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    names, index = np.unique(np.asarray(tasks, dtype=str), return_inverse=True)
    if unit is None:
        unit = "tasks" if len(names) >= MIN_TASK_CLUSTERS else "episodes"
    task_weights = np.ones((num_resamples + 1, len(names)))
    episode_weights = np.ones((num_resamples + 1, len(index)))
    if unit == "tasks":
        task_weights[1:] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), num_resamples)
        episode_weights = task_weights[:, index]
    else:
        for number in range(len(names)):
            members = np.flatnonzero(index == number)
            counts = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), num_resamples)
            episode_weights[1:, members] = counts
    return Resamples(
        unit=unit, tasks=tuple(map(str, names)), task_weights=task_weights, episode_weights=episode_weights
    )


def interval(replicates: Float[ndarray, " R"], confidence: float) -> tuple[float | None, float | None]:
    """Percentile interval of resampled values; undefined resamples are left out, (None, None) when fewer than two."""
    defined = replicates[np.isfinite(replicates)]
    if len(defined) < 2:
        return None, None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mean_over_tasks(values: Float[ndarray, "R K"], weights: Float[ndarray, "R K"]) -> Float[ndarray, " R"]:
    """Mean of the defined tasks of each resample, each as often as it was drawn; NaN where none is defined."""
    weights = weights * np.isfinite(values)
    total = weights.sum(1)
    result = np.full(len(values), np.nan)
    return np.divide((np.nan_to_num(values) * weights).sum(1), total, out=result, where=total > 0)
