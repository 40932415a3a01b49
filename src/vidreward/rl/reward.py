"""From scores to the agent's reward: baseline, clipping, difference, scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vidreward.reward_model import RewardModel
from vidreward.scoring import score_episode, score_frames
from vidreward.types import Episode


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """How scores become rewards, in the order of the fields (docs/methods/hold_r.md)."""

    baseline: bool = False
    """Subtract the score of the goal itself: HOLD's d(g, g)."""
    clip: bool = False
    """Pay no more than at the goal: HOLD's max(0, d - b)."""
    difference: bool = False
    """Pay discount * score[t + 1] - score[t] instead of score[t + 1]."""
    discount: float = 1.0
    scale: float = 1.0
    """Factor on the result: HOLD's 1 / T."""


def usual_shaping(model: RewardModel) -> Shaping:
    """Return the shaping a model is used with: HOLD's for distances to a goal image, else none."""
    if model.inputs.goal != "image":
        return Shaping()
    normalizer = dict(model.named_buffers()).get("normalizer")
    return Shaping(baseline=True, clip=True, scale=1.0 if normalizer is None else 1 / float(normalizer))


def shape_scores(scores: Float[ndarray, "T"], shaping: Shaping, baseline: float = 0.0) -> Float[ndarray, "T-1"]:
    """Turn the scores of frames 0..T-1 into the rewards of steps 0..T-2; step t is paid for the frame it leads to.

    Args:
        scores: One a frame, higher is better.
        shaping: What to do.
        baseline: Score of the goal itself, used when `shaping.baseline` says so.

    Example:
        >>> d = np.array([6, 5, 5.5, 3])
        >>> shape_scores(-d, Shaping(baseline=True, clip=True, scale=1 / 5), baseline=-0.5).round(2).tolist()
        [-0.9, -1.0, -0.5]
    """
    values = np.asarray(scores, np.float64)
    if shaping.baseline:
        values = values - baseline
    if shaping.clip:
        values = np.minimum(values, 0.0)
    paid = shaping.discount * values[1:] - values[:-1] if shaping.difference else values[1:]
    return paid * shaping.scale


def label(
    model: RewardModel, episode: Episode, shaping: Shaping | None = None, *, scores: Float[ndarray, "T"] | None = None
) -> Float[ndarray, "T-1"]:
    """Compute the reward of each step of an episode.

    Args:
        model: Any reward model.
        episode: Frames and goal, at the model's size.
        shaping: None is the usual one of the model.
        scores: Of the episode, where they are known already.
    """
    shaping = usual_shaping(model) if shaping is None else shaping
    scores = score_episode(model, episode) if scores is None else scores
    baseline = 0.0
    if shaping.baseline:
        goal = episode.goal()
        baseline = float(score_frames(model, goal[-1:], goal, fps=episode.fps, text=episode.task)[0])
    return shape_scores(scores, shaping, baseline)
