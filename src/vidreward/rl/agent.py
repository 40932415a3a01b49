"""The contract of an agent: `act` and `update`, with everything that resuming needs in `state`.

An agent is one file: its config, which says what the loop and the replay must do for it, and its networks and
losses. Its noise is a function of the seed and of how often it was used, so that an agent that goes on from saved
tensors equals one that was never stopped.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor, nn
from torch.optim import Adam

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

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the parts of an observation that the policy looks at."""
        return ("state", "pixels") if self.observation == "both" else (self.observation,)

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
    """Act, and learn from batches.

    Every parameter, buffer and optimiser that a subclass makes is part of `state`; `optimizers` names the last.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.num_updates = 0
        self.optimizers: dict[str, Adam] = {}

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

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that going on exactly needs, optimisers included, by name; contents may still change."""
        tensors = {f"model.{name}": tensor.detach() for name, tensor in self.state_dict().items()}
        for key, optimizer in self.optimizers.items():
            for index, parameter in enumerate(_parameters(optimizer)):
                for name, tensor in optimizer.state[parameter].items():
                    tensors[f"{key}.{index}.{name}"] = tensor
        return tensors | {"num_updates": torch.tensor(self.num_updates)}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: Names or shapes are not those of this agent; what does not fit is named.
        """
        own = self.state()
        problems = [f"missing {name}" for name in own if name not in state]
        problems += [f"surplus {name}" for name in state if name not in own]
        problems += [
            f"{name} is {tuple(state[name].shape)}, the agent has {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in state and state[name].shape != tensor.shape
        ]
        if problems:
            more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise ValueError(
                f"these tensors are not of such an agent: {'; '.join(problems[:8])}{more}; build it with the settings "
                "of the run"
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.num_updates = int(state["num_updates"])


def make_adam(parameters: Iterable[nn.Parameter], lr: float) -> Adam:
    """Make Adam with its moments already there, so that an agent has the same tensors before its first update."""
    optimizer = Adam(parameters, lr=lr, fused=True)
    for parameter in _parameters(optimizer):
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def generator(device: torch.device | str, *numbers: int) -> torch.Generator:
    """Make a source of noise that is a function of numbers: a seed, what it is for, how often it was used."""
    entropy = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(entropy[0]))


@dataclass(frozen=True)
class Dims:
    """Sizes of what an agent sees and does."""

    pixels: tuple[int, int, int] | None
    """Channels (stacked frames included), height, width; None where the policy does not look at pictures."""
    state: int
    """0 where the policy does not see the state."""
    action: int


def read_dims(config: AgentConfig, observation_space: spaces.Dict, action_space: spaces.Box) -> Dims:
    """Find what the policy looks at in an environment's spaces.

    Raises:
        ValueError: It is not there, or actions are not in -1..1.
    """
    for name in config.observed:
        if name not in observation_space.spaces:
            raise ValueError(
                f"the policy looks at {name!r}, the environment shows {', '.join(observation_space.spaces)}; choose "
                "another observation for the agent, or an environment that has it"
            )
    shapes = {name: observation_space[name].shape or () for name in config.observed}
    if "pixels" in shapes and (len(shapes["pixels"]) != 3 or observation_space["pixels"].dtype != np.uint8):
        raise ValueError(f"pixels must be uint8 (3, height, width); the environment has {observation_space['pixels']}")
    if len(action_space.shape) != 1 or not (np.all(action_space.low == -1) and np.all(action_space.high == 1)):
        raise ValueError(f"actions must be a vector in -1..1; the environment has {action_space}; rescale its actions")
    channels, *size = shapes.get("pixels", (0,))
    return Dims(
        pixels=(channels * config.frame_stack, size[0], size[1]) if size else None,
        state=shapes.get("state", (0,))[0],
        action=action_space.shape[0],
    )


def _parameters(optimizer: Adam) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
