"""What a finished episode is worth: `Reward.label`, and the oracle's reward where that is paid too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from vidreward.rl.reward import Reward
from vidreward.rl.rollout import Experience

ORACLE = "oracle"
"""Name of the oracle's reward among the terms."""


@dataclass(frozen=True)
class Payment:
    """What each step of an episode of T steps is paid."""

    reward: Float[ndarray, "T"]
    terms: Mapping[str, Float[ndarray, "T"]]
    """What each part adds to the reward, weights included."""
    scores: Mapping[str, Float[ndarray, "T+1"]]
    """Of each frame, by model."""


@dataclass(frozen=True, kw_only=True)
class Payer:
    """Pay whole episodes, each in one batch."""

    reward: Reward
    fps: float
    """Frames per second of the environment."""
    oracle_weight: float = 0.0

    @property
    def needs_pixels(self) -> bool:
        """Whether any reward looks at frames."""
        return bool(self.reward.terms)

    @property
    def in_stages(self) -> bool:
        """Whether goals follow each other."""
        return self.reward.mix.goals is not None

    def pay(self, experience: Experience) -> Payment:
        """Compute the reward of each step of an episode.

        Raises:
            ValueError: The episode lacks what the reward reads.
        """
        trace = self.reward.trace(experience.episode(id="lived", fps=self.fps), terminated=experience.terminated)
        if not self.oracle_weight:
            return Payment(trace.reward, trace.terms, trace.scores)
        if experience.oracle is None:
            raise ValueError("the environment tells no dense reward that an oracle could pay; choose another reward")
        dense = self.oracle_weight * experience.oracle
        return Payment(np.asarray(trace.reward + dense), {**trace.terms, ORACLE: dense}, trace.scores)
