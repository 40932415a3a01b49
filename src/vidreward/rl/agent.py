"""The contract of an agent: `act` and `update`, with everything that resuming needs in `state`.

An agent is one file: its config, which says what the loop and the replay must do for it, and its networks and
losses. Its noise is a function of the seed and of how often it was used, so that an agent that goes on from saved
tensors equals one that was never stopped.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from gymnasium import spaces
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn

Observed = Literal["state", "pixels", "both"]
"""What a policy looks at."""


@dataclass(frozen=True)
class Batch:
    """Transitions to learn from; n steps long where the agent asks for n-step returns.

    Observations hold "state", float32 (B, S), "pixels", uint8 (B, C, H, W), or both; C is 3 a stacked frame, oldest
    frame first.
    """

    observation: Mapping[str, Tensor]
    action: Float[Tensor, "B A"]
    reward: Float[Tensor, "B"]
    """Discounted sum of the rewards on the way."""
    discount: Float[Tensor, "B"]
    """Weight of the value of `next_observation`: gamma^n, 0 where the episode terminated."""
    next_observation: Mapping[str, Tensor]

    def to(self, device: torch.device | str) -> Batch:
        """Move every tensor to a device."""
        return Batch(
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.observation.items()},
            self.action.to(device, non_blocking=True),
            self.reward.to(device, non_blocking=True),
            self.discount.to(device, non_blocking=True),
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.next_observation.items()},
        )


@dataclass(frozen=True, kw_only=True)
class AgentConfig(abc.ABC):
    """What the loop and the replay read of an agent's settings; steps are those of all environments together."""

    observation: Observed = "state"
    """What the policy looks at."""
    frame_stack: int = 1
    """Frames the policy sees at once, the newest last; the first is repeated when an episode begins."""
    batch_size: int = 256
    discount: float = 0.99
    """Per step."""
    n_step: int = 1
    """Steps of reward before the value of what follows."""
    start_steps: int = 1000
    """Steps of uniformly random actions, before the policy acts."""
    update_after: int = 1000
    """Steps before the first update."""
    update_every: int = 1
    """Steps between updates; 2 is one update for two steps."""
    num_updates: int = 1
    """Updates each time."""
    bootstrap_on_timeout: bool = True
    """Whether the value of the last observation counts where time ran out; False stores time-outs as terminal."""

    @abc.abstractmethod
    def build(
        self, observation_space: spaces.Dict, action_space: spaces.Box, *, seed: int, device: torch.device | str = "cpu"
    ) -> Agent:
        """Make the agent, freshly initialised.

        Args:
            observation_space: Of one environment: "state" (S,), "pixels" (3, H, W), one frame.
            action_space: Of one environment: (A,), all in -1..1.
            seed: Of weights and noise.
            device: Where the networks live; `update` moves its batch there.

        Raises:
            ValueError: The spaces lack what the policy looks at, or actions are not in -1..1.
        """


class Agent(nn.Module, abc.ABC):
    """Act, and learn from batches."""

    @abc.abstractmethod
    def act(self, observation: Mapping[str, ndarray], *, explore: bool, step: int) -> Float[ndarray, "N A"]:
        """Choose the actions of N environments.

        Args:
            observation: "state" float32 (N, S), "pixels" uint8 (N, C, H, W) with stacked frames in C.
            explore: Whether to draw an action or take the policy's best.
            step: Environment steps so far; with the seed, it decides the noise.

        Returns:
            Actions in -1..1, float32.
        """

    @abc.abstractmethod
    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            batch: On any device.
            step: Environment steps so far, for schedules.

        Returns:
            Named scalars that stay on the device, so that nobody waits for them.
        """

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return every tensor that going on exactly needs, optimisers included, by name."""

    @abc.abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: Names or shapes are not those of this agent; all that do not fit are named.
        """
