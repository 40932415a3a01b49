"""Random: uniform actions, nothing learned; a baseline for what does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from vidreward.rl.agent import Agent, AgentConfig, Batch


@dataclass(frozen=True, kw_only=True)
class RandomPolicyConfig(AgentConfig):
    """Random has no settings of its own, and asks for no updates."""

    num_updates: int = 0

    def build(
        self, observation_space: spaces.Dict, action_space: spaces.Box, *, seed: int, device: torch.device | str = "cpu"
    ) -> RandomPolicy:
        """Make the policy; any observation will do."""
        return RandomPolicy(action_space.shape[0], seed=seed)


def recipe() -> RandomPolicyConfig:
    """Return the only random policy there is."""
    return RandomPolicyConfig()


class RandomPolicy(Agent):
    """Draw actions uniformly, whatever is seen."""

    num_draws: Tensor

    def __init__(self, action_dim: int, *, seed: int) -> None:
        super().__init__(seed=seed)
        self.action_dim = action_dim
        self.register_buffer("num_draws", torch.zeros((), dtype=torch.int64))

    def act(self, observation: Mapping[str, ndarray], *, explore: bool, step: int) -> Float[ndarray, "N A"]:
        """Draw actions; without exploring too, for the best action of this policy is any."""
        self.num_draws += 1
        rng = np.random.default_rng([self.seed, int(self.num_draws)])
        return rng.uniform(-1, 1, (len(observation["state"]), self.action_dim)).astype(np.float32)

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Learn nothing."""
        return {}
