"""From one score to one reward: distance, baseline, clipping, scale, difference (docs/rewards-in-rl.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vidreward.reward_model import RewardModel
from vidreward.scoring import score_frames
from vidreward.types import Episode


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """How the scores of a model become rewards, in the order of the fields."""

    distance: Literal["eucl", "sq_eucl", "sq_eucl_huber"] = "eucl"
    """What is made of a score that is minus a Euclidean distance d: d itself, d squared, or TCN's
    alpha * d^2 + beta * sqrt(gamma + d^2)."""
    huber: tuple[float, float, float] = (0.005, 0.02, 0.2)
    """Alpha, beta and gamma of `sq_eucl_huber`; HOLD's for its TCN baseline."""
    baseline: bool = False
    """Subtract the score of the goal itself: HOLD's d(g, g)."""
    clip: bool = False
    """Pay no more than at the goal: HOLD's max(0, d - b)."""
    standardize: bool = False
    """Subtract the mean and divide by the standard deviation that the model's `calibrate` keeps."""
    scale: float = 1.0
    """Factor on the result: HOLD's 1 / T."""
    normalizer_less_baseline: bool = False
    """Scale by 1 / (T - d(g, g)) with T = 1 / scale, so that the reward is -1 at the distance T."""
    difference: bool = False
    """Pay discount * potential[t + 1] - potential[t] instead of potential[t + 1]."""
    discount: float = 1.0
    """Of the difference; potential-based shaping that keeps optimal policies uses the agent's."""
    terminal: Literal["keep", "zero"] = "keep"
    """Potential of a true termination in a difference: as scored, or 0; truncation always keeps it."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"shaping.scale must be more than 0; got {self.scale} (give the term a negative weight)")
        if not 0 < self.discount <= 1:
            raise ValueError(f"shaping.discount must be in (0, 1]; got {self.discount}")
        if not self.difference and (self.discount != 1 or self.terminal != "keep"):
            raise ValueError(
                f"shaping.discount ({self.discount}) and shaping.terminal ({self.terminal}) belong to differences; "
                "set shaping.difference, or leave them out"
            )
        if self.standardize and (self.baseline or self.normalizer_less_baseline):
            raise ValueError("standardizing subtracts a mean, so a baseline has no effect; set one of the two")
        if min(self.huber) < 0:
            raise ValueError(f"shaping.huber must be alpha, beta, gamma of at least 0; got {self.huber}")

    def value(self, score: float, goal_score: float = 0.0) -> float:
        """Compute what is left of a score after distance, baseline and clipping.

        Args:
            score: Of a frame.
            goal_score: Of the goal itself, used when `baseline` says so.
        """
        value = self._distance(score) - (self._distance(goal_score) if self.baseline else 0.0)
        return min(value, 0.0) if self.clip else value

    def potential(self, value: float, goal_score: float = 0.0, mean: float = 0.0, std: float = 1.0) -> float:
        """Standardize and scale a value.

        Raises:
            ValueError: The goal's own distance reaches the normaliser.
        """
        if self.standardize:
            return self.scale * (value - mean) / std
        if not self.normalizer_less_baseline:
            return self.scale * value
        normalizer = 1 / self.scale + self._distance(goal_score)
        if normalizer <= 0:
            raise ValueError(
                f"the goal's distance to itself, {-self._distance(goal_score):g}, reaches the normalizer "
                f"{1 / self.scale:g}; use a larger one (a smaller scale), or leave normalizer_less_baseline off"
            )
        return value / normalizer

    def pay(self, before: float, after: float, *, terminated: bool = False) -> float:
        """Turn the potentials before and after a step into its reward."""
        if not self.difference:
            return after
        return self.discount * (0.0 if terminated and self.terminal == "zero" else after) - before

    def _distance(self, score: float) -> float:
        if self.distance == "eucl":
            return score
        if score > 1e-4:
            raise ValueError(
                f"shaping.distance {self.distance!r} needs scores that are minus a distance; got a score of {score:g}"
            )
        squared = score * score
        if self.distance == "sq_eucl":
            return -squared
        alpha, beta, gamma = self.huber
        return -(alpha * squared + beta * math.sqrt(gamma + squared))


def usual_shaping(model: RewardModel) -> Shaping:
    """Return the shaping a model is used with: HOLD's for distances to a goal image, else none."""
    if model.inputs.goal != "image":
        return Shaping()
    normalizer = dict(model.named_buffers()).get("normalizer")
    return Shaping(baseline=True, clip=True, scale=1.0 if normalizer is None else 1 / float(normalizer))


def score_statistics(model: RewardModel) -> tuple[float, float]:
    """Return the mean and standard deviation of its scores that a model keeps.

    Raises:
        ValueError: It keeps none.
    """
    buffers = dict(model.named_buffers())
    if "score_mean" not in buffers or "score_std" not in buffers:
        raise ValueError(
            f"{type(model).__name__} keeps no score_mean and score_std, so its scores cannot be standardized; "
            "leave shaping.standardize off, or give a scale"
        )
    return float(buffers["score_mean"]), float(buffers["score_std"])


def suggest_normalizer(
    model: RewardModel, episodes: Sequence[Episode], shaping: Shaping | None = None, *, most: int = 64
) -> float:
    """Compute HOLD's T, with which the first frame's |reward| is 1/3 on average.

    Args:
        model: Any model whose scores are minus a distance.
        episodes: Videos of the task, each with its own goal; better from the agent's own camera.
        shaping: None is the usual one of the model; its scale is not used.
        most: Episodes looked at, evenly spread.

    Returns:
        T in the model's units; use it as `Shaping(scale=1 / T)`.

    Raises:
        ValueError: There are no episodes, or they begin at their goals.
    """
    shaping = usual_shaping(model) if shaping is None else shaping
    if not episodes:
        raise ValueError("no episodes to compute a normalizer from; give videos of the task")
    values = []
    for episode in episodes[:: max(1, len(episodes) // most)][:most]:
        goal = episode.goal() if model.inputs.goal in ("image", "video") else None
        first, at_goal = (
            float(score_frames(model, frames, goal, fps=episode.fps, text=episode.task)[0])
            for frames in (episode.frames([0]), episode.frames([0]) if goal is None else goal[-1:])
        )
        values.append(abs(shaping.value(first, at_goal)))
    if not np.mean(values) > 0:
        raise ValueError("the first frames of these episodes are already at their goals; give other episodes or goals")
    return 3 * float(np.mean(values))
